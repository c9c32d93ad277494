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

package workerlogs

import (
	"net/netip"
	"testing"
)

// FuzzParseRanges checks that ranges survive a round trip and never allow forbidden addresses.
func FuzzParseRanges(f *testing.F) {
	for _, text := range []string{"10.0.0.0/8", "fd00::/8", "0.0.0.0/0", "::/0", "127.0.0.1/32", "10.1.2.3/8", " 10.0.0.0/8 ", "10.0.0.0", "::ffff:10.0.0.0/104", "fe80::1%eth0/64", "/", "10.0.0.0/33"} {
		f.Add(text, "10.1.2.3")
		f.Add(text, "169.254.169.254")
		f.Add(text, "100.100.100.200")
		f.Add(text, "224.0.0.1")
		f.Add(text, "::ffff:127.0.0.1")
	}
	f.Fuzz(func(t *testing.T, text, address string) {
		ranges, err := ParseRanges([]string{text})
		if err != nil {
			return
		}
		again, err := ParseRanges([]string{ranges[0].String()})
		if err != nil || again[0] != ranges[0] || ranges[0] != ranges[0].Masked() {
			t.Fatalf("%q, from %q: got %v, %v", ranges[0], text, again, err)
		}
		addr, err := netip.ParseAddr(address)
		if err != nil || ranges.Check(addr) != nil {
			return
		}
		if bare := addr.Unmap(); !ranges[0].Contains(bare) || contains(forbiddenPrefixes, bare) || addr.Zone() != "" || bare.IsMulticast() || bare.IsUnspecified() {
			t.Errorf("%s allows %s", text, addr)
		}
		if loopback := netip.MustParsePrefix("127.0.0.0/8"); addr.Unmap().IsLoopback() && addr.Unmap().Is4() && ranges[0].Bits() < loopback.Bits() {
			t.Errorf("%s, which is wider than %s, allows %s", text, loopback, addr)
		}
	})
}
