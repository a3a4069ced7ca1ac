package release_test

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/covey-edge/covey/fleet/release"
)

func compiled(t testing.TB) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertContent()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(release.Schema))
	if err == nil {
		err = c.AddResource("release.schema.json", doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("release.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// held is what the schema says of a manifest.
func held(s *jsonschema.Schema, b []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

func examples(t *testing.T, pattern string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/" + pattern + ".json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no examples %s: %v", pattern, err)
	}
	all := map[string][]byte{}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(p), ".json")] = b
	}
	return all
}

// What is good is so for the schema and for Parse. Sources lack hashes, which Build
// adds; the rest is canonical to the byte.
func TestGood(t *testing.T) {
	s := compiled(t)
	for name, b := range examples(t, "good/*") {
		if err := held(s, b); err != nil {
			t.Errorf("%s: the schema refuses it: %v", name, err)
		}
		if strings.HasPrefix(name, "source-") {
			continue
		}
		m, err := release.Parse(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := m.Canonical(); !bytes.Equal(got, b) {
			t.Errorf("%s is canonically\n%s, want\n%s", name, got, b)
		}
	}
}

// What is bad is so for Parse, and for the schema where it can know.
func TestBad(t *testing.T) {
	s := compiled(t)
	for name, b := range examples(t, "bad/*") {
		if m, err := release.Parse(b); err == nil {
			t.Errorf("%s: was taken: %+v", name, m)
		}
		if err := held(s, b); (err != nil) != strings.HasPrefix(name, "schema-") {
			t.Errorf("%s: the schema says %v", name, err)
		}
	}
}

// A release made before a key came keeps its digest, and an editor's line is no part
// of it.
func TestDigestStays(t *testing.T) {
	m, err := release.Parse(examples(t, "good/canonical-before")["canonical-before"])
	if err != nil {
		t.Fatal(err)
	}
	const before = "85ea10e0e014ad9e43b3816ad5a5373ca8f303d4eac6838ff5ed1f2eaf893b20"
	if m.Digest() != before {
		t.Errorf("digest %s, was %s", m.Digest(), before)
	}
	m.Schema = "release.schema.json"
	if m.Digest() != before {
		t.Error("an editor's line changes the release")
	}
}

// The schema has the keys that the program has.
func TestSchemaKeys(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(release.Schema))
	if err != nil {
		t.Fatal(err)
	}
	root := doc.(map[string]any)
	defs := root["$defs"].(map[string]any)
	properties := root["properties"].(map[string]any)
	tensor := defs["tensors"].(map[string]any)["items"]
	for _, c := range []struct {
		of     any
		schema any
	}{
		{release.Manifest{}, root}, {release.File{}, defs["file"]}, {release.Variant{}, defs["variant"]}, {release.Golden{}, defs["golden"]},
		{release.Decode{}, defs["decode"]}, {release.Lineage{}, properties["lineage"]}, {release.Result{}, properties["result"]}, {release.Tensor{}, tensor},
	} {
		var have, want []string
		for key := range c.schema.(map[string]any)["properties"].(map[string]any) {
			have = append(have, key)
		}
		typ := reflect.TypeOf(c.of)
		for i := range typ.NumField() {
			key, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			want = append(want, key)
		}
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			t.Errorf("%s: the schema has the keys %v, the program %v", typ.Name(), have, want)
		}
	}
	known := defs["variant"].(map[string]any)["properties"].(map[string]any)["quantisation"].(map[string]any)["enum"].([]any)
	for i, q := range release.Quantisations {
		if known[i+1] != q {
			t.Errorf("quantisation %s is %v in the schema", q, known[i+1])
		}
	}
}

// What people get to change is short, and says the same.
func TestShort(t *testing.T) {
	m, err := release.Parse(examples(t, "good/canonical-full")["canonical-full"])
	if err != nil {
		t.Fatal(err)
	}
	if again, err := release.Parse(m.Short()); err != nil || again.Digest() != m.Digest() {
		t.Errorf("%s\nis not what it was: %v", m.Short(), err)
	}
	odd := `a "quoted" \ name, [ 1` // that looks like what is taken out
	bare := release.Manifest{V: 1, Variants: []release.Variant{{File: release.File{Name: odd}}}, Decode: release.Decode{Mean: []float32{-1.5, 1e-9}, Std: []float32{1, 2}}}
	want := "{\n  \"v\": 1,\n  \"name\": \"\",\n  \"version\": \"\",\n  \"task\": \"\",\n  \"variants\": [\n    {\n      \"engine\": \"\",\n      \"file\": " +
		`{"name": "a \"quoted\" \\ name, [ 1"}` + "\n    }\n  ],\n  \"decode\": {\n    \"mean\": [-1.5, 1e-9],\n    \"std\": [1, 2]\n  }\n}\n"
	if got := string(bare.Short()); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
