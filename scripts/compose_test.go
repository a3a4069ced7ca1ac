package scripts

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// The module that has the schema of compose files, as Docker itself reads it.
const (
	composeModule = "github.com/compose-spec/compose-go/v2@v2.9.0"
	composeSum    = "h1:UHSv/QHlo6QJtrT4igF1rdORgIUhDo1gWuyJUoiNNIM="
)

// TestCompose holds firmware/compose.yaml against the schema of compose files, and
// against the image that it starts.
func TestCompose(t *testing.T) {
	text, err := os.ReadFile("../firmware/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	read := func(text string) (tree map[string]any) {
		if err := yaml.Unmarshal([]byte(text), &tree); err != nil {
			t.Fatal(err)
		}
		return tree
	}
	schema := composeSchema(t)
	if err := schema.Validate(read(string(text))); err != nil {
		t.Error(err)
	}
	if schema.Validate(read(strings.Replace(string(text), "cap_drop: [ALL]", "cap_drops: [ALL]", 1))) == nil {
		t.Error("the schema takes a key that does not exist")
	}

	var file struct {
		Services map[string]struct {
			Build struct {
				Context, Dockerfile string
			}
			User        string
			ReadOnly    bool     `yaml:"read_only"`
			CapDrop     []string `yaml:"cap_drop"`
			SecurityOpt []string `yaml:"security_opt"`
			Privileged  bool
			Healthcheck struct{ Test []string }
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	s := file.Services["covey-agent"]
	if s.Privileged || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
		t.Errorf("the container may more than it has to: %+v", s)
	}
	if _, err := os.Stat("../firmware/" + s.Build.Context + "/" + s.Build.Dockerfile); err != nil {
		t.Error(err)
	}
	image := dockerfile(t)
	said := func(word string) string {
		i := slices.IndexFunc(image, func(s [2]string) bool { return s[0] == word })
		return image[i][1]
	}
	if s.User != said("USER") {
		t.Errorf("user %s, the image has %s", s.User, said("USER"))
	}
	var program []string
	if err := json.Unmarshal([]byte(said("ENTRYPOINT")), &program); err != nil {
		t.Fatal(err)
	}
	if test := s.Healthcheck.Test; len(test) < 3 || test[0] != "CMD" || test[1] != program[0] {
		t.Fatalf("the image has no program for %v", test)
	}
	if _, err := os.Stat(os.Getenv("COVEY_BIN") + "/covey-agent"); err != nil {
		t.Skip("no programs here: run scripts/setup")
	}
	checkCommand(t, block{file: "firmware/compose.yaml"}, os.Getenv("COVEY_BIN"), append([]string{"covey-agent"}, s.Healthcheck.Test[2:]...))
}

// composeSchema is the schema out of the pinned module.
func composeSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", composeModule)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	out, err := cmd.Output()
	var m struct{ Dir, Sum, Error string }
	if jsonErr := json.Unmarshal(out, &m); err != nil || jsonErr != nil || m.Sum != composeSum {
		t.Fatalf("download %s: %v, %v, %+v", composeModule, err, jsonErr, m)
	}
	schema, err := jsonschema.NewCompiler().Compile(m.Dir + "/schema/compose-spec.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}
