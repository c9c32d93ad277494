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

// Package direct configures clients to send requests for our API directly to leat-apiserver, not through the aggregator
// of the cluster's API server, so that their watches do not load it. The requests are authorized the same either way.
package direct

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"

	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// apiService is the name of our APIService.
var apiService = batch.GroupVersion.Version + "." + batch.GroupName

// Registration holds what the APIService of our API says about the server.
type Registration struct {
	// ServerName is the DNS name of the server's Service, which its certificate is for.
	ServerName string
	// Port is the port of the Service.
	Port int
	// CABundle holds the CA certificates, in PEM, that the server's certificate is verified with.
	CABundle []byte
}

// Address returns the URL of the server inside the cluster.
func (r *Registration) Address() string {
	if r.Port == 443 {
		return "https://" + r.ServerName
	}
	return "https://" + net.JoinHostPort(r.ServerName, strconv.Itoa(r.Port))
}

// Registered returns the registration of our API in the cluster. It returns the error of the API, which is NotFound
// where Leat is not installed, or an error if the APIService is not complete yet.
func Registered(ctx context.Context, cluster rest.Interface) (*Registration, error) {
	content, err := cluster.Get().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices", apiService).DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var registered struct {
		Spec struct {
			Service *struct {
				Namespace, Name string
				Port            *int
			}
			CABundle []byte `json:"caBundle"`
		}
	}
	if err := json.Unmarshal(content, &registered); err != nil {
		return nil, err
	}
	service := registered.Spec.Service
	if service == nil || len(registered.Spec.CABundle) == 0 {
		return nil, fmt.Errorf("APIService %s names no server and CA bundle yet: wait until it is available", apiService)
	}
	r := &Registration{ServerName: service.Name + "." + service.Namespace + ".svc", Port: 443, CABundle: registered.Spec.CABundle}
	if service.Port != nil {
		r.Port = *service.Port
	}
	return r, nil
}
