// Command covey-signer-pkcs11 signs with a key that never leaves its token: a smart
// card, a hardware security module, SoftHSM. It is a program of its own because a
// token's library is native code of its vendor, which has no business in covey.
//
//	covey-signer-pkcs11 public URI                  prints the key's public half, in hex
//	covey-signer-pkcs11 sign URI [--pin-file FILE]  signs what comes on its standard input
//
// The PIN comes from a file, which may be /dev/fd/3; it is in no argument and no
// environment, where other programs could see it.
package main

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "covey-signer-pkcs11:", err)
		os.Exit(1)
	}
}

// Bounds of what is read.
const (
	maxMessage = 1 << 20 // bytes; metadata has 256 KiB at most
	maxPIN     = 256
)

var errUsage = errors.New("want: public URI, or: sign URI [--pin-file FILE]")

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) < 2 {
		return errUsage
	}
	u, err := parseURI(args[1])
	if err != nil {
		return err
	}
	switch {
	case args[0] == "public" && len(args) == 2:
		public, err := publicOf(u)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%x\n", []byte(public))
		return err
	case args[0] == "sign" && len(args) == 2:
		return sign(u, nil, in, out)
	case args[0] == "sign" && len(args) == 4 && args[2] == "--pin-file":
		pin, err := readPIN(args[3])
		if err != nil {
			return err
		}
		return sign(u, pin, in, out)
	}
	return errUsage
}

func readPIN(path string) ([]byte, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPIN+1))
	b = bytes.TrimRight(b, "\r\n")
	if err == nil && (len(b) == 0 || len(b) > maxPIN) {
		err = fmt.Errorf("the PIN has %d bytes: 1 to %d are read", len(b), maxPIN)
	}
	return b, err
}

func sign(u uri, pin []byte, in io.Reader, out io.Writer) error {
	message, err := io.ReadAll(io.LimitReader(in, maxMessage+1))
	if err != nil {
		return err
	}
	if len(message) > maxMessage {
		return fmt.Errorf("more than %d bytes to sign", maxMessage)
	}
	signature, err := signWith(u, pin, message)
	if err == nil && len(signature) != ed25519.SignatureSize {
		err = fmt.Errorf("the token gave %d bytes, an ed25519 signature has %d", len(signature), ed25519.SignatureSize)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%x\n", signature)
	return err
}
