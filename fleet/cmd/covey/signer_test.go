package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal/haltest"
)

// A key that never leaves its token signs a whole repository, and without a terminal.
func TestSignByToken(t *testing.T) {
	const module = "/usr/lib/softhsm/libsofthsm2.so"
	if _, err := os.Stat(module); err != nil {
		t.Fatalf("%v: run apt-get install softhsm2 opensc", err)
	}
	haltest.Program(t, "covey-signer-pkcs11")
	m := birdMaker(t)
	m.write("softhsm2.conf", []byte("directories.tokendir = "+m.dir+"\n"))
	t.Setenv("SOFTHSM2_CONF", m.at("softhsm2.conf"))
	for _, line := range []string{
		"softhsm2-util --init-token --free --label covey --so-pin 1234 --pin 5678",
		"pkcs11-tool --module " + module + " --token-label covey --login --pin 5678 --keypairgen --key-type EC:edwards25519 --label ada --id 01",
	} {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	key := "pkcs11:token=covey;object=ada?module-path=" + module
	m.write("pin", []byte("5678\n"))
	m.write("wrong", []byte("1111\n"))
	m.must("trust init --trust DIR/trust --releases " + key)
	m.refused("trust sign --trust DIR/trust --key "+key, exitUsage, "nobody is here to type", "/dev/fd/")
	m.refused("trust sign --trust DIR/trust --key "+key+" --passphrase-file DIR/wrong", exitFailed, "not the token's PIN")
	m.refused("trust sign --trust DIR/trust --key "+strings.Replace(key, "=ada", "=ben", 1)+" --passphrase-file DIR/pin", exitRefused, `called "ben"`)
	m.must("release sign DIR/mobilenet.tflite --name birds --version 1.0.0 --trust DIR/trust --key " + key + " --passphrase-file DIR/pin")
	if out := m.must("release check DIR/mobilenet.tflite --name birds --version 1.0.0 --trust DIR/trust"); !strings.Contains(out, "signed: yes") {
		t.Error(out)
	}
	if out := m.must("trust key list --trust DIR/trust --in DIR"); !strings.Contains(out, "root (1 of 1), targets (1 of 1), snapshot (1 of 1), timestamp (1 of 1)") {
		t.Error(out)
	}
	public := strings.TrimSpace(m.must("trust key show " + key))
	m.write("ada.pub", []byte(public+"\n"))
	if out := m.must("trust key list --trust DIR/trust --in DIR"); len(public) != 64 || !strings.Contains(out, "ada.pub") {
		t.Errorf("%s: %s", public, out)
	}
	t.Setenv("PATH", filepath.Dir(m.at("x"))) // no programs
	m.refused("trust key show "+key, exitUsage, "no program covey-signer-pkcs11")
}

// A key may come from a file descriptor, and its passphrase from another: nothing of
// them is on a disk, in an argument or in the environment.
func TestSignByDescriptor(t *testing.T) {
	m := birdMaker(t)
	m.write("phrase", []byte("long-enough\n"))
	m.must("trust key new DIR/ci.key --passphrase-file DIR/phrase")
	sealed, err := os.ReadFile(m.at("ci.key"))
	if err != nil {
		t.Fatal(err)
	}
	m.must("trust init --trust DIR/trust --releases DIR/ci.key")
	m.must(fmt.Sprintf("trust sign --trust DIR/trust --key %s --passphrase-file %s", descriptor(t, sealed), descriptor(t, []byte("long-enough"))))
	if out := m.must("trust status --trust DIR/trust --json"); !strings.Contains(out, `"complete": true`) {
		t.Error(out)
	}
	m.refused(fmt.Sprintf("trust sign --trust DIR/trust --key %s --passphrase-file %s", descriptor(t, sealed), descriptor(t, []byte("something-else"))), exitRefused, "not its passphrase")
	m.refused("trust sign --trust DIR/trust --key "+descriptor(t, []byte("{}")), exitRefused, "that is no key")
}

// descriptor is the name of an open pipe that holds b.
func descriptor(t *testing.T, b []byte) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return fmt.Sprintf("/dev/fd/%d", r.Fd())
}
