package trust

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A key's file opens with its passphrase alone, and tells its public half without.
func TestKeyFiles(t *testing.T) {
	k := key(t)
	for _, phrase := range []string{"", "correct horse"} {
		b, err := k.Seal([]byte(phrase))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := OpenKey(b, []byte(phrase)); err != nil || !got.Public().Equal(k.Public()) {
			t.Errorf("%q: %v", phrase, err)
		}
		if got, err := PublicOf(b); err != nil || !got.Equal(k.Public()) {
			t.Errorf("%q: public half: %v", phrase, err)
		}
		if phrase == "" {
			continue
		}
		if strings.Contains(string(b), hex.EncodeToString(k.private.Seed())) {
			t.Error("a sealed key lies open")
		}
		for _, wrong := range []string{"", "correct hors"} {
			if _, err := OpenKey(b, []byte(wrong)); !errors.Is(err, ErrPassphrase) {
				t.Errorf("passphrase %q: %v", wrong, err)
			}
		}
	}
	other := key(t)
	b, err := k.Seal(nil)
	if err != nil {
		t.Fatal(err)
	}
	mixed := bytes.ReplaceAll(b, []byte(hex.EncodeToString(k.Public())), []byte(hex.EncodeToString(other.Public())))
	if _, err := OpenKey(mixed, nil); err == nil {
		t.Error("two halves of two keys were taken")
	}
	if got, err := PublicOf([]byte(hex.EncodeToString(k.Public()) + "\n")); err != nil || !got.Equal(k.Public()) {
		t.Errorf("hex alone: %v", err)
	}
	for _, junk := range []string{"", "{}", `{"v":2}`, `{"v":1,"public":"00"}`, strings.Repeat("x", 64), strings.Repeat("0", 1<<20)} {
		if _, err := PublicOf([]byte(junk)); err == nil {
			t.Errorf("%.20q was taken for a key", junk)
		}
	}
}

// A private key that others can read is refused.
func TestKeyModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	for mode, good := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		if err := CheckMode(path); (err == nil) != good {
			t.Errorf("mode %#o: %v", mode, err)
		}
		os.Remove(path)
	}
}

// A program signs in the place of a key, and is believed only what verifies.
func TestCommands(t *testing.T) {
	k, message := key(t), []byte("what is signed")
	good, err := k.Sign(context.Background(), message)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[0] ^= 1
	for name, c := range map[string]struct {
		prints string
		says   string
	}{
		"bare":        {string(good), ""},
		"hex":         {hex.EncodeToString(good) + "\n", ""},
		"wrong":       {string(bad), "64 bytes that are no signature"},
		"short":       {"no", "2 bytes that are no signature"},
		"endless":     {strings.Repeat("x", 1<<20), "that are no signature"},
		"of the file": {string(message), "that are no signature"},
	} {
		path := filepath.Join(t.TempDir(), "signature")
		if err := os.WriteFile(path, []byte(c.prints), 0o600); err != nil {
			t.Fatal(err)
		}
		s := &Command{Argv: []string{"cat", path}, Key: k.Public()}
		got, err := s.Sign(context.Background(), message)
		if c.says == "" && (err != nil || !bytes.Equal(got, good)) || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	s := &Command{Argv: []string{"sh", "-c", "echo no token >&2; exit 3"}, Key: k.Public()}
	if _, err := s.Sign(context.Background(), message); err == nil || !strings.Contains(err.Error(), "exit status 3: no token") {
		t.Errorf("a program that fails: %v", err)
	}
}
