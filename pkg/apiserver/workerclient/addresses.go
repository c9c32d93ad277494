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

package workerclient

import (
	"fmt"
	"net/netip"
	"strings"
)

// own are the addresses that mean this machine, its link, or the machine's cloud: a server that could be made to dial them on
// somebody's behalf would lend out its place in the network. A range within one of these, given on purpose, opens it.
var own = prefixes(
	"127.0.0.0/8", "::1/128", // this machine
	"169.254.0.0/16", "fe80::/10", // this link, and the metadata of most clouds
	// What gateways make IPv4 addresses of.
	"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32",
)

// never are addresses that no worker has: no range opens them.
var never = prefixes(
	"0.0.0.0/8", "::/128", // none, which systems take for this machine
	"224.0.0.0/4", "ff00::/8", "255.255.255.255/32", // many
	// The metadata of clouds, which knows secrets.
	"169.254.169.254/32", "169.254.170.2/32", "fd00:ec2::254/128", "fd20:ce::254/128", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32",
)

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// Ranges are the addresses where workers may be. Without any, they may be everywhere but at the server itself.
type Ranges []netip.Prefix

// ParseRanges reads address ranges like 10.0.0.0/8 or fd00::/8.
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

// Check says why the server does not dial the address, if so.
func (r Ranges) Check(addr netip.Addr) error {
	if addr.Zone() != "" {
		return fmt.Errorf("address %s belongs to one link of one machine", addr)
	}
	addr = addr.Unmap()
	if !addr.IsValid() || contains(never, addr) {
		return fmt.Errorf("no worker can be at address %s", addr)
	}
	for _, block := range own {
		if !block.Contains(addr) {
			continue
		}
		for _, prefix := range r {
			if prefix.Contains(addr) && prefix.Bits() >= block.Bits() {
				return nil
			}
		}
		return fmt.Errorf("address %s is in %s, which no --worker-address-ranges opens", addr, block)
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
