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
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMetricsAreServed(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if _, err := serveMetrics(t.Context(), address, prometheus.NewRegistry()); err == nil {
		t.Error("an address that is in use is no error")
	}
	free.Close()
	stop, err := serveMetrics(t.Context(), address, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || !strings.Contains(string(body), "process_resident_memory_bytes") {
		t.Errorf("answered %s, %v", body, err)
	}
	stop()
	if _, err := net.Dial("tcp", address); err == nil {
		t.Error("metrics are served after stop")
	}
	if stop, err := serveMetrics(t.Context(), noMetrics, nil); err != nil {
		t.Error(err)
	} else {
		stop()
	}
}

func TestMetricsAddresses(t *testing.T) {
	for address, ok := range map[string]bool{
		"0": true, "127.0.0.1:9090": true, "[::1]:9090": true, "localhost:9090": true, "127.1.2.3:0": true,
		":9090": true, "0.0.0.0:9090": true, "10.0.0.1:9090": true, "[::]:9090": true,
		"": false, "9090": false, "127.0.0.1": false, ":": false, ":http": false, ":65536": false, "example.com:9090": false,
	} {
		if err := validateMetricsAddress(address); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestMetricsOfAPodAreServedToOthers(t *testing.T) {
	// The address of this machine that is not loopback, if it has one.
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		ip := address.(*net.IPNet).IP
		if ip.IsLoopback() || ip.To4() == nil {
			continue
		}
		listener, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		listener.Close()
		stop, err := serveMetrics(t.Context(), ":"+port, prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		response, err := http.Get("http://" + net.JoinHostPort(ip.String(), port) + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("answered %s", response.Status)
		}
		return
	}
	t.Log("this machine has no address but loopback ones")
}
