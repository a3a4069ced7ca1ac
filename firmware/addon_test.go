package firmware

import (
	"image/png"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

const addonFolder = "homeassistant-addon/covey/"

// addonConfig is the add-on's config.yaml, which the supervisor has to take.
func addonConfig(t *testing.T) map[string]any {
	t.Helper()
	text, err := os.ReadFile(addonFolder + "config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return readYAML(t, strings.ReplaceAll(string(text), "@VERSION@", "1.2.3"))
}

func readYAML(t *testing.T, text string) (tree map[string]any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), &tree); err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestAddonConfig(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("testdata/addon.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	config := addonConfig(t)
	if err := schema.Validate(config); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(map[string]any){
		"another architecture": func(c map[string]any) { c["arch"] = []any{"arm64"} },
		"a word of nobody's":   func(c map[string]any) { c["ports_open"] = true },
		"a filter with digits": func(c map[string]any) { c["schema"] = map[string]any{"camera": "device(subsystem=video4linux)"} },
		"a service in vain":    func(c map[string]any) { c["services"] = []any{"mqtt"} },
	} {
		bad := addonConfig(t)
		spoil(bad)
		if schema.Validate(bad) == nil {
			t.Errorf("%s: the schema takes it", name)
		}
	}

	// Rights that would make the profile and the container worth little.
	for _, key := range []string{"full_access", "host_network", "privileged", "docker_api", "hassio_api", "homeassistant_api", "host_pid", "host_dbus"} {
		if _, has := config[key]; has {
			t.Errorf("the add-on asks for %s", key)
		}
	}
	settings := config["schema"].(map[string]any)
	for name := range config["options"].(map[string]any) {
		if settings[name] == nil {
			t.Errorf("the option %s is not in the schema", name)
		}
	}
	for name, kind := range settings {
		if !strings.HasSuffix(kind.(string), "?") && config["options"].(map[string]any)[name] == nil {
			t.Errorf("%s has to be set, and has no value at first", name)
		}
	}
	words, err := os.ReadFile(addonFolder + "translations/en.yaml")
	if err != nil {
		t.Fatal(err)
	}
	said := readYAML(t, string(words))["configuration"].(map[string]any)
	if want, got := slices.Sorted(maps.Keys(settings)), slices.Sorted(maps.Keys(said)); !slices.Equal(want, got) {
		t.Errorf("settings are %v, explained are %v", want, got)
	}
	readRepository(t)
}

// readRepository looks at what a Home Assistant reads first.
func readRepository(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("homeassistant-addon/repository.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if r := readYAML(t, string(text)); r["name"] == nil || r["url"] == nil || r["maintainer"] == nil {
		t.Errorf("repository.yaml: %v", r)
	}
}

// The pictures have the sizes that Home Assistant asks for.
func TestAddonPictures(t *testing.T) {
	for name, size := range map[string][2]int{"icon.png": {128, 128}, "logo.png": {250, 100}} {
		f, err := os.Open(addonFolder + name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if c, err := png.DecodeConfig(f); err != nil || c.Width != size[0] || c.Height != size[1] {
			t.Errorf("%s: %d × %d, %v", name, c.Width, c.Height, err)
		}
	}
}

// The profile is read by AppArmor's own parser, and is for the add-on's slug: by that
// name the supervisor loads it.
func TestAddonProfile(t *testing.T) {
	text, err := os.ReadFile(addonFolder + "apparmor.txt")
	if err != nil {
		t.Fatal(err)
	}
	if slug := addonConfig(t)["slug"].(string); !regexp.MustCompile(`(?m)^profile ` + slug + ` flags=\(attach_disconnected,mediate_deleted\) \{$`).Match(text) {
		t.Errorf("there is no profile named %s", slug)
	}
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		t.Skip("no apparmor_parser here (apt-get install apparmor)")
	}
	if out, err := exec.Command(parser, "--skip-kernel-load", "--skip-cache", addonFolder+"apparmor.txt").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
