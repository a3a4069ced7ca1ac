package trust

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A Signer holds a private key, or asks somebody who does.
type Signer interface {
	Public() ed25519.PublicKey
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// KeyID is what metadata calls a key.
func KeyID(public ed25519.PublicKey) string {
	key, err := metadata.KeyFromPublicKey(public)
	if err == nil {
		var id string
		if id, err = key.ID(); err == nil {
			return id
		}
	}
	panic(err) // hex of 32 bytes
}

// A Key is a private key in memory.
type Key struct{ private ed25519.PrivateKey }

// NewKey makes a key.
func NewKey() (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return &Key{private}, nil
}

// Public is the key's public half.
func (k *Key) Public() ed25519.PublicKey { return k.private.Public().(ed25519.PublicKey) }

// Sign signs.
func (k *Key) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(k.private, message), nil
}

// maxKeyFile bounds a key's file, bytes.
const maxKeyFile = 16 << 10

// A keyFile is a key on disk: the public half to read, the private one sealed by a
// passphrase (scrypt and NaCl's secretbox, as TUF's tools do), or bare where there is
// none.
type keyFile struct {
	V      int             `json:"v"`
	Public string          `json:"public"`           // hex
	Sealed json.RawMessage `json:"sealed,omitempty"` // the seed
	Seed   string          `json:"seed,omitempty"`   // hex; with no passphrase
}

// Seal makes a key's file. Without a passphrase the key is not sealed: for a program
// that nobody types one for.
func (k *Key) Seal(passphrase []byte) ([]byte, error) {
	f := keyFile{V: 1, Public: hex.EncodeToString(k.Public())}
	if len(passphrase) == 0 {
		f.Seed = hex.EncodeToString(k.private.Seed())
	} else {
		sealed, err := encrypted.Encrypt(k.private.Seed(), passphrase)
		if err != nil {
			return nil, err
		}
		f.Sealed = sealed
	}
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
}

// ErrPassphrase is a wrong one, or none where one is needed.
var ErrPassphrase = errors.New("the key is sealed, and this is not its passphrase")

// OpenKey reads a key's file.
func OpenKey(b, passphrase []byte) (*Key, error) {
	f, public, err := readKeyFile(b)
	if err != nil {
		return nil, err
	}
	seed, err := hex.DecodeString(f.Seed)
	if f.Sealed != nil {
		if seed, err = encrypted.Decrypt(f.Sealed, passphrase); err != nil {
			return nil, ErrPassphrase
		}
	}
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, errors.New("the file holds no private key")
	}
	k := &Key{ed25519.NewKeyFromSeed(seed)}
	if !k.Public().Equal(public) {
		return nil, errors.New("the file's two halves are not of one key")
	}
	return k, nil
}

// PublicOf is the public half of a key's file, or of a file that holds that alone, in
// hex.
func PublicOf(b []byte) (ed25519.PublicKey, error) {
	if text := bytes.TrimSpace(b); len(text) == hex.EncodedLen(ed25519.PublicKeySize) {
		p := make([]byte, ed25519.PublicKeySize)
		if _, err := hex.Decode(p, text); err == nil {
			return p, nil
		}
	}
	_, public, err := readKeyFile(b)
	return public, err
}

func readKeyFile(b []byte) (keyFile, ed25519.PublicKey, error) {
	var f keyFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if len(b) > maxKeyFile || d.Decode(&f) != nil || f.V != 1 {
		return f, nil, errors.New("that is no key: make one with `covey trust key new`")
	}
	public, err := hex.DecodeString(f.Public)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return f, nil, errors.New("the file holds no public key")
	}
	return f, public, nil
}

// CheckMode refuses a private key that others can read.
func CheckMode(path string) error {
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case fi.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s can be read by others (mode %#o); run: chmod 600 %s", path, fi.Mode().Perm(), path)
	}
	return nil
}

// A Command is a signer outside: a token, a KMS, a colleague's machine. The program
// gets the message on standard input and prints the signature, 64 bytes bare, or in
// hex.
type Command struct {
	Argv []string
	Key  ed25519.PublicKey
	PIN  []byte // to be read from file descriptor 3, where others cannot see it; nil: none
}

// signing is how long a program may take: somebody may have to touch a token.
const signing = 2 * time.Minute

// Public is the key that the program signs with.
func (c *Command) Public() ed25519.PublicKey { return c.Key }

// Sign runs the program, and believes nothing: what it prints is verified.
func (c *Command) Sign(ctx context.Context, message []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, signing)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Stdin = bytes.NewReader(message)
	if c.PIN != nil {
		pin, err := filled(c.PIN)
		if err != nil {
			return nil, err
		}
		defer pin.Close()
		cmd.ExtraFiles = []*os.File{pin}
	}
	var out, said bounded
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, errors.New(strings.TrimSuffix(fmt.Sprintf("%s: %v: %s", strings.Join(c.Argv, " "), err, oneLine(string(said.b))), ": "))
	}
	sig := out.b
	if text := bytes.TrimSpace(sig); len(text) == hex.EncodedLen(ed25519.SignatureSize) {
		if b, err := hex.DecodeString(string(text)); err == nil {
			sig = b
		}
	}
	if len(sig) != ed25519.SignatureSize || !ed25519.Verify(c.Key, message, sig) {
		return nil, fmt.Errorf("%s printed %d bytes that are no signature of key %.8s", strings.Join(c.Argv, " "), len(sig), KeyID(c.Key))
	}
	return sig, nil
}

// filled is a pipe's end to read a few bytes from.
func filled(b []byte) (*os.File, error) {
	if len(b) > maxPIN {
		return nil, fmt.Errorf("a PIN of more than %d bytes", maxPIN)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.Write(b) // a pipe holds more than that
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// maxPIN bounds a PIN, bytes.
const maxPIN = 256

// bounded keeps the first bytes that a program prints.
type bounded struct{ b []byte }

func (w *bounded) Write(p []byte) (int, error) {
	w.b = append(w.b, p[:min(len(p), maxKeyFile-len(w.b))]...)
	return len(p), nil
}
