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
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		name    string
		ranges  []string
		allowed string // separated by spaces
		refused string
	}{
		{
			name:    "by default",
			allowed: "10.1.2.3 192.168.1.1 172.16.0.1 8.8.8.8 100.64.0.1 fd12:3456::1 2a00::1 ::ffff:10.1.2.3",
			refused: "127.0.0.1 127.8.9.10 ::1 ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::1 2001::7f00:1 " +
				"0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0 " +
				"169.254.1.1 169.254.169.254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe fe80::1 fe80::1%eth0 2a00::1%lo " +
				"224.0.0.1 239.1.1.1 255.255.255.255 ff02::1 ff0e::1 " +
				"169.254.170.2 fd00:ec2::254 fd20:ce::254 100.100.100.200 168.63.129.16 192.0.0.192",
		},
		{
			name: "in ranges", ranges: []string{"10.0.0.0/8", "fd12:3456::/32"},
			allowed: "10.0.0.0 10.255.255.255 ::ffff:10.0.0.1 fd12:3456::1",
			refused: "11.0.0.0 192.168.1.1 fd13::1 127.0.0.1 ::1 169.254.169.254 fe80::1",
		},
		{
			name: "ranges of all addresses", ranges: []string{"0.0.0.0/0", "::/0"},
			allowed: "8.8.8.8 2a00::1",
			refused: "127.0.0.1 ::1 169.254.1.1 fe80::1 169.254.169.254 0.0.0.0 224.0.0.1 100.100.100.200 ::ffff:127.0.0.1",
		},
		{
			name: "loopback ranges", ranges: []string{"127.0.0.1/32", "::1/128"},
			allowed: "127.0.0.1 ::1 ::ffff:127.0.0.1",
			refused: "127.0.0.2 10.0.0.1 0.0.0.0 ::",
		},
		{
			name: "link-local range", ranges: []string{"169.254.0.0/16"},
			allowed: "169.254.1.1",
			refused: "169.254.169.254 169.254.170.2 fe80::1 127.0.0.1",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			ranges, err := ParseRanges(test.ranges)
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range strings.Fields(test.allowed) {
				if err := ranges.Check(netip.MustParseAddr(text)); err != nil {
					t.Errorf("%s is refused: %v", text, err)
				}
			}
			for _, text := range strings.Fields(test.refused) {
				if err := ranges.Check(netip.MustParseAddr(text)); err == nil {
					t.Errorf("%s is allowed", text)
				}
			}
			if err := ranges.Check(netip.Addr{}); err == nil {
				t.Error("the zero address is allowed")
			}
		})
	}
}

func TestParseInvalidRanges(t *testing.T) {
	for _, text := range []string{"", "10.0.0.1", "10.0.0.0/33", "::ffff:10.0.0.0/104", "localhost/8", "10.0.0.0-10.0.0.9"} {
		if ranges, err := ParseRanges([]string{text}); err == nil || !strings.Contains(err.Error(), "like 10.0.0.0/8") {
			t.Errorf("%q: got %v, %v", text, ranges, err)
		}
	}
}
