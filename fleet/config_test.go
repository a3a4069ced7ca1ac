package fleet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConfigFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("secret", strings.Repeat("s", 32)+"\n", 0o600)
	write("open", strings.Repeat("s", 32), 0o644)
	for _, tc := range []struct{ text, says string }{
		{"", ""},
		{"webhooks: []", ""},
		{"webhooks: [{url: https://example.org/hook, secret_file: secret, events: [PAUSED, COMPLETED]}]", ""},
		{"webhooks: [{url: https://example.org/hook, secret_file: none}]", "none"},
		{"webhooks: [{url: https://example.org/hook, secret_file: open}]", "chmod 600"},
		{"webhooks: [{url: http://example.org/hook, secret_file: secret}]", "use https"},
		{"webhooks: [{address: https://example.org/hook}]", "address"},
		{"weblinks: []", "weblinks"},
		{"webhooks: [", "yaml"},
		{strings.Repeat("#", maxConfig+1), "longer than"},
	} {
		var c Config
		err := c.LoadFile(write("config.yaml", tc.text, 0o600))
		if err == nil {
			_, err = hooks(c.Webhooks)
		}
		if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%.60s: %v, want %q", tc.text, err, tc.says)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("webhooks: [{url: https://example.org/hook, secret_file: secret, events: [PAUSED, COMPLETED]}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := parseConfig(b); err != nil && list != nil {
			t.Fatal("half a configuration")
		}
	})
}
