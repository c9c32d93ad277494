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
	"bytes"
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// FindStored returns the key and the value of an object of any kind in etcd.
func FindStored(ctx context.Context, client *clientv3.Client, namespace, name string) (key string, value []byte, err error) {
	suffix := "/" + namespace + "/" + name
	for from := "/"; ; {
		response, err := client.Get(ctx, from, clientv3.WithFromKey(), clientv3.WithKeysOnly(), clientv3.WithLimit(10_000))
		if err != nil {
			return "", nil, err
		}
		for _, kv := range response.Kvs {
			if !bytes.HasSuffix(kv.Key, []byte(suffix)) {
				continue
			}
			found, err := client.Get(ctx, string(kv.Key))
			if err != nil {
				return "", nil, err
			}
			if len(found.Kvs) == 0 {
				return "", nil, fmt.Errorf("%s was deleted between two requests", kv.Key)
			}
			return string(kv.Key), found.Kvs[0].Value, nil
		}
		if !response.More {
			return "", nil, fmt.Errorf("etcd has no key that ends with %s", suffix)
		}
		from = string(response.Kvs[len(response.Kvs)-1].Key) + "\x00"
	}
}

// CopyStored writes copies 1 to n-1 of a stored object, copy 0, to etcd. unique returns the parts that differ between the
// copies, the name first. A part must have the same length in all copies, and the object must contain each part once.
func CopyStored(ctx context.Context, client *clientv3.Client, key string, value []byte, n int, unique func(i int) [][]byte) error {
	template := unique(0)
	for i, part := range unique(1) {
		if len(part) != len(template[i]) || bytes.Count(value, template[i]) != 1 {
			return fmt.Errorf("%s contains %s %d times, want once", key, template[i], bytes.Count(value, template[i]))
		}
	}
	prefix := strings.TrimSuffix(key, string(template[0]))
	for i := 1; i < n; {
		var puts []clientv3.Op
		// A watch cache is at a revision as soon as it has one of the changes of that revision. The last copy has its own
		// transaction, so that a list with the last copy has all.
		for end := max(n-1, i+1); i < end && len(puts) < 100; i++ {
			copied, parts := value, unique(i)
			for part, text := range parts {
				copied = bytes.Replace(copied, template[part], text, 1)
			}
			puts = append(puts, clientv3.OpPut(prefix+string(parts[0]), string(copied)))
		}
		if _, err := client.Txn(ctx).Then(puts...).Commit(); err != nil {
			return err
		}
	}
	return nil
}
