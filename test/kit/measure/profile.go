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

package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// WriteCPUProfile writes the CPU profile of a server over the next d, rounded to seconds, to a file. The client needs the
// verb get on the path /debug/pprof/profile.
func WriteCPUProfile(ctx context.Context, client *http.Client, server string, d time.Duration, file string) error {
	return download(ctx, client, fmt.Sprintf("%s/debug/pprof/profile?seconds=%.0f", server, max(1, d.Seconds())), file)
}

// WriteHeapProfile writes the heap profile of a server after a garbage collection to a file. The client needs the verb get
// on the path /debug/pprof/heap.
func WriteHeapProfile(ctx context.Context, client *http.Client, server, file string) error {
	return download(ctx, client, server+"/debug/pprof/heap?gc=1", file)
}

func download(ctx context.Context, client *http.Client, url, file string) (err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, response.Status)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, response.Body)
	return err
}
