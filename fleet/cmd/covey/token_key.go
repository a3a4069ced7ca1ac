package main

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os/exec"
	"strings"

	"github.com/covey-edge/covey/fleet/trust"
)

// Keys in tokens are named in the place of a key's file, by a PKCS #11 URI. A program of
// its own loads the token's library; this one never does.

func inToken(key string) bool { return strings.HasPrefix(key, "pkcs11:") }

const tokenProgram = "covey-signer-pkcs11"

// tokenPublic asks a token for a key's public half.
func tokenPublic(uri string) (ed25519.PublicKey, error) {
	path, err := program(tokenProgram)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "public", uri)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		text := strings.TrimPrefix(strings.TrimSpace(said.String()), tokenProgram+": ")
		if text == "" {
			text = err.Error()
		}
		return nil, &failure{code: exitRefused, what: text}
	}
	return trust.PublicOf(out)
}

// tokenSigner signs with a key in a token. Its PIN comes from a file, or from a person.
func (a *app) tokenSigner(f signerFlags) (trust.Signer, error) {
	public, err := tokenPublic(f.key)
	if err != nil {
		return nil, err
	}
	path, err := program(tokenProgram)
	if err != nil {
		return nil, err
	}
	pin, err := a.passphrase(f.passphrase, "PIN of the token: ")
	if err != nil {
		return nil, err
	}
	if len(pin) == 0 {
		return nil, errors.New("the PIN is empty")
	}
	return &trust.Command{Argv: []string{path, "sign", f.key, "--pin-file", "/dev/fd/3"}, Key: public, PIN: pin}, nil
}
