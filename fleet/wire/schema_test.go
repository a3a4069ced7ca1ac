package wire

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// kind is a message type as the tests know it.
type kind struct {
	name  string
	typ   reflect.Type
	parse func([]byte) (any, error)
}

func kindOf[T any, P interface {
	*T
	Validate() error
}](name string, limit int) kind {
	return kind{name, reflect.TypeFor[T](), func(b []byte) (any, error) { return Parse[T, P](b, limit) }}
}

func kinds() []kind {
	return []kind{
		kindOf[Status]("status", MaxHealth),
		kindOf[Hello]("hello", MaxHello),
		kindOf[Health]("health", MaxHealth),
		kindOf[Desired]("desired", MaxDesired),
		kindOf[Reported]("reported", MaxReported),
		kindOf[ExecStep]("exec", MaxExec),
		kindOf[Result]("result", MaxResult),
		kindOf[Lost]("lost", MaxResult),
		kindOf[BlockGet]("block-get", MaxHealth),
		kindOf[HomeModel]("home-model", MaxHomeModel),
		kindOf[HomeCapabilities]("home-capabilities", MaxHomeCapabilities),
		kindOf[HomeLast]("home-last", MaxHomeLast),
		kindOf[HomeDiagnostics]("home-diagnostics", MaxHomeDiagnostics),
	}
}

func goldens(t testing.TB, kind string) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("testdata/golden/" + kind + ".*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("no golden example of %s: %v", kind, err)
	}
	m := map[string][]byte{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		m[filepath.Base(name)] = b
	}
	return m
}

func schema(t testing.TB, kind string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertContent()
	s, err := c.Compile("testdata/schema/" + kind + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func value(t testing.TB, b []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A golden example is what its schema says and what Go reads, and Go writes it
// again as it was.
func TestGoldens(t *testing.T) {
	for _, k := range kinds() {
		s := schema(t, k.name)
		for name, b := range goldens(t, k.name) {
			want := value(t, b)
			if err := s.Validate(want); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			v, err := k.parse(b)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			again, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if got := value(t, again); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: came back as %s", name, again)
			}
		}
	}
}

// The schemas have the keys that the Go types have, all of which some golden uses.
func TestSchemasAreComplete(t *testing.T) {
	for _, k := range kinds() {
		b, err := os.ReadFile("testdata/schema/" + k.name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var s map[string]any
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatal(err)
		}
		compareKeys(t, k.name, k.typ, s)
	}
}

func compareKeys(t *testing.T, path string, typ reflect.Type, s map[string]any) {
	t.Helper()
	sub := func(key string) map[string]any { m, _ := s[key].(map[string]any); return m }
	switch {
	case typ == reflect.TypeFor[time.Time](), typ == reflect.TypeFor[json.RawMessage]():
		return
	case typ.Kind() == reflect.Pointer:
		compareKeys(t, path, typ.Elem(), s)
		return
	case typ.Kind() == reflect.Map:
		if sub("additionalProperties") != nil {
			compareKeys(t, path+".*", typ.Elem(), sub("additionalProperties"))
		}
		return
	case typ.Kind() == reflect.Slice:
		if sub("items") != nil {
			compareKeys(t, path+"[]", typ.Elem(), sub("items"))
		}
		return
	case typ.Kind() != reflect.Struct:
		return
	}
	var all, required []string
	for i := range typ.NumField() {
		name, opts, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		all = append(all, name)
		if opts == "" {
			required = append(required, name)
		}
		if p, ok := sub("properties")[name].(map[string]any); ok {
			compareKeys(t, path+"."+name, typ.Field(i).Type, p)
		}
	}
	var inSchema, requiredInSchema []string
	for name := range sub("properties") {
		inSchema = append(inSchema, name)
	}
	for _, name := range s["required"].([]any) {
		requiredInSchema = append(requiredInSchema, name.(string))
	}
	for _, l := range [][]string{all, required, inSchema, requiredInSchema} {
		slices.Sort(l)
	}
	if !slices.Equal(all, inSchema) {
		t.Errorf("%s: Go has %v, schema %v", path, all, inSchema)
	}
	if !slices.Equal(required, requiredInSchema) {
		t.Errorf("%s: Go always writes %v, schema requires %v", path, required, requiredInSchema)
	}
}

func TestGoldensUseEveryKey(t *testing.T) {
	for _, k := range kinds() {
		seen := map[string]bool{}
		for _, b := range goldens(t, k.name) {
			var v any
			if err := json.Unmarshal(b, &v); err != nil {
				t.Fatal(err)
			}
			collectKeys(v, seen)
		}
		for _, key := range jsonKeys(k.typ) {
			if !seen[key] {
				t.Errorf("%s: no golden has %q", k.name, key)
			}
		}
	}
}

func collectKeys(v any, seen map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			seen[k] = true
			collectKeys(e, seen)
		}
	case []any:
		for _, e := range v {
			collectKeys(e, seen)
		}
	}
}

func jsonKeys(typ reflect.Type) (keys []string) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Map || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[time.Time]() {
		return nil
	}
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		keys = append(append(keys, name), jsonKeys(typ.Field(i).Type)...)
	}
	return keys
}
