package main

import (
	"strings"
	"testing"
)

func TestFleetFile(t *testing.T) {
	for text, says := range map[string]string{
		"name: a\nreleases: [{group: all, pipeline: cam, release: m}]":                                                                    "",
		"name: a\ngroups: {x: site=lyon}\npolicies: {p: {on_error: abort}}\nreleases: [{group: x, pipeline: cam, release: m, policy: p}]": "",
		"":                        "name",
		"name: A":                 "name",
		"name: a\nrelease: []":    "unknown field",
		"name: a\nreleases: [{}]": "needs group",
		"name: a\nreleases: [{group: all, pipeline: c/m, release: m}]":                                                      "needs group",
		"name: a\nreleases: [{group: all, pipeline: cam, release: m, policy: p}]":                                           "no policy",
		"name: a\npolicies: {p: {on_error: weep}}":                                                                          "weep",
		"name: a\ngroups: {x: all}\nreleases: [{group: all, pipeline: c, release: m}, {group: x, pipeline: c, release: n}]": "same pipeline",
		"name: [":    "yaml",
		"? [a]\n: b": "map key",
	} {
		if _, err := parseFleetFile([]byte(text)); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

func FuzzFleetFile(f *testing.F) {
	f.Add([]byte("name: a\ngroups: {x: site=lyon}\npolicies: {p: {on_error: abort}}\nreleases: [{group: x, pipeline: cam, release: m, policy: p}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parseFleetFile(b)
		if err != nil {
			return
		}
		for _, r := range v.Releases {
			if p, known := v.policy(r); !known || p.Validate() != nil || v.query(r) == "" && v.Groups[r.Group] != "" {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func FuzzPolicyFile(f *testing.F) {
	f.Add([]byte("phases: [{name: canary, count: 1, soak: 1h}, {name: all, percent: 100}]\non_error: revert\nstart: 2026-01-02T03:04:05Z"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := policyOf(b); err == nil && p.Validate() != nil {
			t.Fatal("not valid")
		}
	})
}
