package haltest

import (
	"os"
	"strings"
	"testing"
)

// TestVM boots a machine, and sees that it has what this one may lack.
func TestVM(t *testing.T) {
	if !InVM() {
		VM(t, Machine{Modules: []string{"vivid n_devs=1", "snd-aloop"}})
		return
	}
	for _, name := range []string{"/dev/video0", "/dev/snd/controlC0"} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	lsm, err := os.ReadFile("/sys/kernel/security/lsm")
	if err != nil || !strings.Contains(string(lsm), "landlock") {
		t.Errorf("security modules %q, %v; want landlock", lsm, err)
	}
}
