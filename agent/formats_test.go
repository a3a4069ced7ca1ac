package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/hal"
)

// An agent of tomorrow's data folder is not opened, and not one byte in it changes.
func TestFormats(t *testing.T) {
	for _, c := range []struct{ name, was, code, says string }{
		{"a new board", "", "", ""},
		{"the same", Formats() + "version 1.0.0\n", "", ""},
		{"another version of the same formats", Formats() + "version 9.9.9\n", "", ""},
		{"older", "outbox 0\nstate 0\nversion 0.1.0\n", "", ""},
		{"rubbish", "\x00\xffstate\nstate -1\nstate 99999999999999999999\n", "", ""},
		{"too long", strings.Repeat("state 1\n", 1000), "", ""},
		{"a file of tomorrow's", "weather 7\nversion 2.0.0\n", "", ""},
		{"newer state", "state 2\nversion 2.0.0\n", "E_STATE_NEWER", "its state has format 2"},
		{"newer outbox", "outbox 9\nstate 1\nversion 2.0.0\n", "E_STATE_NEWER", "Install 2.0.0 again"},
		{"newer, of nobody", "outbox 9\nversion \x1b[2J\n", "E_STATE_NEWER", "of a later version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "formats")
			if c.was != "" {
				if err := os.WriteFile(path, []byte(c.was), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := admitFormats(blob.OS{}, filepath.Dir(path), "1.0.0")
			if string(hal.CodeOf(err)) != c.code || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v; want %s %q", err, c.code, c.says)
			}
			want := Formats() + "version 1.0.0\n"
			if c.code != "" {
				want = c.was
			}
			if is, err := os.ReadFile(path); string(is) != want {
				t.Errorf("now the file says %q, %v; want %q", is, err, want)
			}
		})
	}
}

func FuzzFormats(f *testing.F) {
	f.Add("outbox 1\nstate 1\nversion 1.0.0\n")
	f.Add("state 99999999999999999999\nversion \x1b[2J")
	f.Fuzz(func(t *testing.T, text string) {
		version, found := parseFormats(text)
		if !plain(strings.ReplaceAll(version, " ", "")) {
			t.Errorf("version %q", version)
		}
		for name, n := range found {
			if n < 0 {
				t.Errorf("%s %d", name, n)
			}
		}
	})
}
