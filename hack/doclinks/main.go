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

// The doclinks command fails if a link between pages leads nowhere: a relative link or an anchor in Markdown, or the
// path of a page of docs/ in any other text file.
package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	link    = regexp.MustCompile(`!?\[[^\]]*\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} +(.*)$`)
	fence   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	// mention is the path of a page in code, in a manifest or in a message. Addresses of other sites have a slash before
	// it.
	mention = regexp.MustCompile(`(?:^|[^/\w.-])(docs/[\w/.-]+\.(?:md|svg))\b`)
)

func main() {
	log.SetFlags(0)
	out, err := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		log.Fatal(err)
	}
	var broken []string
	for name := range strings.Lines(string(out)) {
		name = strings.TrimSpace(name)
		content, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		} else if err != nil {
			log.Fatal(err)
		}
		if filepath.Ext(name) == ".md" {
			broken = append(broken, brokenLinks(name, string(content))...)
		}
		if isText(name) {
			broken = append(broken, brokenMentions(name, string(content))...)
		}
	}
	if len(broken) > 0 {
		log.Fatalf("doclinks: these links lead nowhere:\n%s", strings.Join(broken, "\n"))
	}
}

// isText reports whether a file can mention a page: sources, manifests, scripts and pages, but nothing generated from
// upstream.
func isText(name string) bool {
	if strings.Contains(name, "testdata/") || strings.HasPrefix(name, "artifacts/openapi/") || strings.Contains(name, "zz_generated") {
		return false
	}
	switch filepath.Ext(name) {
	case ".go", ".md", ".sh", ".yaml", ".yml", ".json":
		return true
	}
	return filepath.Base(name) == "Makefile" || filepath.Base(name) == "Dockerfile"
}

// brokenLinks returns the relative links of a page that lead nowhere.
func brokenLinks(name, content string) []string {
	var broken []string
	for _, match := range link.FindAllStringSubmatch(fence.ReplaceAllString(content, ""), -1) {
		target := match[1]
		if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
			continue
		}
		path, anchor, _ := strings.Cut(target, "#")
		file := name
		if path != "" {
			file = filepath.Join(filepath.Dir(name), path)
		}
		if _, err := os.Stat(file); err != nil {
			broken = append(broken, fmt.Sprintf("%s: %s: no such file", name, target))
			continue
		}
		if anchor != "" && filepath.Ext(file) == ".md" && !hasAnchor(file, anchor) {
			broken = append(broken, fmt.Sprintf("%s: %s: no such heading", name, target))
		}
	}
	return broken
}

// hasAnchor reports whether a page has a heading with that anchor, which GitHub derives from its text.
func hasAnchor(file, anchor string) bool {
	content, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for _, match := range heading.FindAllStringSubmatch(fence.ReplaceAllString(string(content), ""), -1) {
		if anchorOf(match[1]) == anchor {
			return true
		}
	}
	return false
}

var dropped = regexp.MustCompile(`[^\p{L}\p{N}\s_-]`)

// anchorOf returns the anchor of a heading.
func anchorOf(text string) string {
	text = link.ReplaceAllStringFunc(text, func(s string) string { return s[strings.Index(s, "[")+1 : strings.Index(s, "]")] })
	return strings.ReplaceAll(strings.ToLower(dropped.ReplaceAllString(strings.TrimSpace(text), "")), " ", "-")
}

// brokenMentions returns the pages that a file mentions by their path in the repository, and that do not exist.
func brokenMentions(name, content string) []string {
	var broken []string
	for _, match := range mention.FindAllStringSubmatch(content, -1) {
		if _, err := os.Stat(match[1]); err != nil {
			broken = append(broken, fmt.Sprintf("%s: %s: no such file", name, match[1]))
		}
	}
	return broken
}
