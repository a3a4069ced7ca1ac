package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal"
)

// A secret that is a credential comes from the service manager's folder, and nowhere else.
func TestCredential(t *testing.T) {
	dir, given := t.TempDir(), t.TempDir()
	config := filepath.Join(dir, "agent.yaml")
	read := func(name string) (*File, error) {
		text := "home: {broker: 'mqtt://h', user: u, password_file: '" + name + "'}\n"
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return ReadFile(config)
	}
	if err := os.WriteFile(filepath.Join(given, "home"), []byte("hunter2\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	f, err := read("credential:home") // checked away from the service
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Home.Password(); hal.CodeOf(err) != hal.CodeConfig || !strings.Contains(err.Error(), "LoadCredential=home:") {
		t.Errorf("without credentials: %v", err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", given)
	if p, err := f.Home.Password(); p != "hunter2" || err != nil {
		t.Errorf("got %q, %v", p, err)
	}
	if _, err := read("credential:home"); err != nil {
		t.Error(err)
	}
	if _, err := read("credential:yard"); err == nil || !strings.Contains(err.Error(), "LoadCredential=yard:") {
		t.Errorf("one that was not given: %v", err)
	}
	for _, bad := range []string{"credential:", "credential:../agent.yaml", "credential:a/b", "credential:.", "credential:" + strings.Repeat("a", 65)} {
		if _, err := read(bad); hal.CodeOf(err) != hal.CodeConfig || !strings.Contains(err.Error(), "not the name of a credential") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestStateFolder(t *testing.T) {
	for dir, want := range map[string]string{"": DefaultData, "/var/lib/edge": "/var/lib/edge", "/a/:/b": "/a", "relative": DefaultData} {
		t.Setenv("STATE_DIRECTORY", dir)
		f, err := ParseFile("x", "/x", nil)
		if err != nil || f.Data != want {
			t.Errorf("%q: %s, want %s (%v)", dir, f.Data, want, err)
		}
	}
}
