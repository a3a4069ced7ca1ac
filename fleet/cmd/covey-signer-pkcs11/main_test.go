package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestURI(t *testing.T) {
	u, err := parseURI("pkcs11:token=my%20token;object=ada;id=%01%00?module-path=/usr/lib/x.so")
	if want := (uri{token: "my token", object: "ada", id: "\x01\x00", module: "/usr/lib/x.so"}); err != nil || u != want {
		t.Errorf("got %+v, %v", u, err)
	}
	if u, err := parseURI("pkcs11:serial=1;id=%01;type=private"); err != nil || u.module != defaultModule {
		t.Errorf("got %+v, %v", u, err)
	}
	for _, bad := range []string{
		"", "pkcs11:", "token=a;object=b", "pkcs11:token=a", "pkcs11:object=a", "pkcs11:token=a;object=b;object=c", "pkcs11:token=a;object=b;color=red",
		"pkcs11:token=a;object=b?module-path=x.so", "pkcs11:token=a;object=b?module-path=/a/../b.so", "pkcs11:token=%zz;object=b", "pkcs11:token=a;object=b%00",
		"pkcs11:token=a;object=b?pin-value=1234", "pkcs11:token=a;object=b;type=cert", "pkcs11:token=a;object=b?", "pkcs11:token=a;object=",
		"pkcs11:token=a;object=" + strings.Repeat("b", maxURI),
	} {
		if u, err := parseURI(bad); err == nil && bad != "pkcs11:token=a;object=b?" {
			t.Errorf("%q was taken as %+v", bad, u)
		}
	}
	if _, err := parseURI("pkcs11:token=a;object=b?pin-value=1234"); err == nil || strings.Contains(err.Error(), "1234") {
		t.Errorf("a PIN in a URI: %v", err)
	}
}

func FuzzURI(f *testing.F) {
	f.Add("pkcs11:token=my%20token;object=ada;id=%01%00?module-path=/usr/lib/x.so")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := parseURI(s)
		if err == nil && (u.token+u.serial == "" || u.object+u.id == "" || u.module != defaultModule && !filepath.IsAbs(u.module)) {
			t.Errorf("%q is %+v", s, u)
		}
	})
}

// A SoftHSM makes a key that it does not give away; what it signs verifies, however
// long. A wrong PIN, token or key is said by name.
func TestSoftHSM(t *testing.T) {
	uri := softHSM(t)
	pins := t.TempDir()
	pin := func(text string) string {
		path := filepath.Join(pins, "pin-"+text)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var out bytes.Buffer
	if err := run([]string{"public", uri}, nil, &out); err != nil {
		t.Fatal(err)
	}
	public, err := hex.DecodeString(strings.TrimSpace(out.String()))
	if err != nil || len(public) != ed25519.PublicKeySize {
		t.Fatalf("public key %s, %v", out.String(), err)
	}
	for _, n := range []int{0, 100, 1025, 200_000, maxMessage} { // OpenSC's pkcs11-tool ends at 1024
		message := bytes.Repeat([]byte("m"), n)
		out.Reset()
		if err := run([]string{"sign", uri, "--pin-file", pin("5678")}, bytes.NewReader(message), &out); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		sig, err := hex.DecodeString(strings.TrimSpace(out.String()))
		if err != nil || !ed25519.Verify(public, message, sig) {
			t.Errorf("%d bytes: the signature does not verify: %v", n, err)
		}
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"wrong PIN":   {[]string{"sign", uri, "--pin-file", pin("9999")}, "not the token's PIN"},
		"empty PIN":   {[]string{"sign", uri, "--pin-file", pin("")}, "PIN"},
		"no PIN":      {[]string{"sign", uri}, "0 ed25519 keys"},
		"other token": {[]string{"public", strings.Replace(uri, "token=covey", "token=other", 1)}, `0 tokens are called "other": there are ["covey"]`},
		"other key":   {[]string{"public", strings.Replace(uri, "object=ada", "object=ben", 1)}, `0 ed25519 keys in the token are called "ben"`},
		"no library":  {[]string{"public", "pkcs11:token=covey;object=ada?module-path=/none.so"}, "/none.so cannot be loaded"},
		"too long":    {[]string{"sign", uri, "--pin-file", pin("5678")}, "more than"},
		"nothing":     {[]string{"sign"}, "want:"},
		"argument":    {[]string{"sign", uri, "--pin", "5678"}, "want:"},
	} {
		message := []byte("m")
		if name == "too long" {
			message = make([]byte, maxMessage+1)
		}
		err := run(c.args, bytes.NewReader(message), &out)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// softHSM makes a token with a key, as the manual says.
func softHSM(t *testing.T) (uri string) {
	t.Helper()
	const module = "/usr/lib/softhsm/libsofthsm2.so"
	if _, err := os.Stat(module); err != nil {
		t.Fatalf("%v: run apt-get install softhsm2 opensc", err)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	for _, line := range []string{
		"softhsm2-util --init-token --free --label covey --so-pin 1234 --pin 5678",
		"pkcs11-tool --module " + module + " --token-label covey --login --pin 5678 --keypairgen --key-type EC:edwards25519 --label ada --id 01",
	} {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	return "pkcs11:token=covey;object=ada?module-path=" + module
}
