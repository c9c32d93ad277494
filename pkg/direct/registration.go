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

// Package direct is for programs that reach leat-apiserver itself, past the API server of the cluster that it is registered in: what
// they watch costs that one nothing. Their rights are the same either way.
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

// apiService is the name under which our API is registered.
var apiService = batch.GroupVersion.Version + "." + batch.GroupName

// Registration is what a cluster knows of the server that is registered for our API.
type Registration struct {
	// ServerName is the name in the server's certificate: that of its Service, which pods resolve.
	ServerName string
	// Port of the Service.
	Port int
	// CABundle are the authorities, in PEM, one of which has signed the server's certificate.
	CABundle []byte
}

// Address is where pods find the server.
func (r *Registration) Address() string {
	if r.Port == 443 {
		return "https://" + r.ServerName
	}
	return "https://" + net.JoinHostPort(r.ServerName, strconv.Itoa(r.Port))
}

// Registered asks a cluster. The error is the API's, as of apierrors.IsNotFound where Leat is not installed, or says that the registration is not
// complete.
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
		return nil, fmt.Errorf("APIService %s does not say yet which server to trust: wait until it is available", apiService)
	}
	r := &Registration{ServerName: service.Name + "." + service.Namespace + ".svc", Port: 443, CABundle: registered.Spec.CABundle}
	if service.Port != nil {
		r.Port = *service.Port
	}
	return r, nil
}
