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
	"fmt"
	"net/netip"
	"strings"
)

// localPrefixes are the addresses of this machine, its link and its cloud. A server that dials them for a user lends
// out its place in the network. A configured range within one of these prefixes allows the addresses of the range.
var localPrefixes = prefixes(
	"127.0.0.0/8", "::1/128", // loopback
	"169.254.0.0/16", "fe80::/10", // link-local, with the metadata service of most clouds
	// IPv6 prefixes that embed IPv4 addresses.
	"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32",
)

// forbiddenPrefixes are addresses that no worker can have. No configured range allows them.
var forbiddenPrefixes = prefixes(
	"0.0.0.0/8", "::/128", // unspecified, which systems connect to loopback
	"224.0.0.0/4", "ff00::/8", "255.255.255.255/32", // multicast and broadcast
	// Metadata services of clouds, which hold secrets.
	"169.254.169.254/32", "169.254.170.2/32", "fd00:ec2::254/128", "fd20:ce::254/128", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32",
)

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// Ranges are the allowed addresses of workers. Empty ranges allow all addresses but local ones.
type Ranges []netip.Prefix

// ParseRanges parses address ranges like 10.0.0.0/8 or fd00::/8.
func ParseRanges(texts []string) (Ranges, error) {
	var ranges Ranges
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || prefix.Addr().Is4In6() {
			return nil, fmt.Errorf("%q: must be a range of addresses like 10.0.0.0/8 or fd00::/8", text)
		}
		ranges = append(ranges, prefix.Masked())
	}
	return ranges, nil
}

// Check returns an error if the server must not dial the address.
func (r Ranges) Check(addr netip.Addr) error {
	if addr.Zone() != "" {
		return fmt.Errorf("address %s has a zone, which is valid on one machine only", addr)
	}
	addr = addr.Unmap()
	if !addr.IsValid() || contains(forbiddenPrefixes, addr) {
		return fmt.Errorf("no worker can be at address %s", addr)
	}
	for _, local := range localPrefixes {
		if !local.Contains(addr) {
			continue
		}
		for _, prefix := range r {
			if prefix.Contains(addr) && prefix.Bits() >= local.Bits() {
				return nil
			}
		}
		return fmt.Errorf("address %s is in %s, which no --worker-address-ranges allows", addr, local)
	}
	if len(r) > 0 && !contains(r, addr) {
		return fmt.Errorf("address %s is in none of the --worker-address-ranges", addr)
	}
	return nil
}

func contains(list []netip.Prefix, addr netip.Addr) bool {
	for _, prefix := range list {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}
