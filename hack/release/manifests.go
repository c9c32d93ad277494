/*
Copyright The Leat Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// writeManifests writes install.yaml and the chart. digest is the digest of the image, or "" if it is not known.
func (r *release) writeManifests(digest string) error {
	defer step("manifests and chart")()
	image := types.Image{Name: "leat", NewName: r.imageName(), NewTag: r.tag()}
	// A node that got the image without a registry knows it by its tag only.
	if r.repository != "" {
		image.Digest = digest
	}
	objects, err := kustomize(r.source, []string{"default"}, image)
	if err != nil {
		return err
	}
	text, err := objects.AsYaml()
	if err != nil {
		return err
	}
	header := "# Leat " + r.version + " with an etcd of its own: the kustomization config/default.\n---\n"
	if err := os.WriteFile(filepath.Join(r.dist, "install.yaml"), append([]byte(header), text...), 0o644); err != nil {
		return err
	}
	return r.writeChart(image)
}

// kustomize builds a resource and components of config/, with other images.
func kustomize(source string, paths []string, images ...types.Image) (resmap.ResMap, error) {
	config, err := filepath.Abs(filepath.Join(source, "config"))
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "leat-release-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// kustomize resolves symbolic links and refuses absolute paths.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	if config, err = filepath.EvalSymlinks(config); err != nil {
		return nil, err
	}
	if config, err = filepath.Rel(dir, config); err != nil {
		return nil, err
	}
	kustomization := types.Kustomization{
		TypeMeta:  types.TypeMeta{APIVersion: types.KustomizationVersion, Kind: types.KustomizationKind},
		Resources: []string{filepath.Join(config, paths[0])}, Images: images,
	}
	for _, component := range paths[1:] {
		kustomization.Components = append(kustomization.Components, filepath.Join(config, component))
	}
	text, err := yaml.Marshal(kustomization)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), text, 0o600); err != nil {
		return nil, err
	}
	objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, fmt.Errorf("kustomize %q: %w", paths, err)
	}
	return objects, nil
}

// etcdImage returns the image of etcd that config/default names.
func etcdImage(source string) (types.Image, error) {
	path := filepath.Join(source, "config", "default", "kustomization.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		return types.Image{}, err
	}
	var kustomization types.Kustomization
	if err := yaml.Unmarshal(text, &kustomization); err != nil {
		return types.Image{}, fmt.Errorf("%s: %w", path, err)
	}
	for _, image := range kustomization.Images {
		if image.Name == "etcd" {
			return image, nil
		}
	}
	return types.Image{}, fmt.Errorf("%s: images has no etcd", path)
}
