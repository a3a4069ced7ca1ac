//go:build !cgo

package main

import (
	"crypto/ed25519"
	"errors"
)

var errNoCgo = errors.New("this program was built without cgo, which a token's library needs: build it with CGO_ENABLED=1")

func publicOf(uri) (ed25519.PublicKey, error) { return nil, errNoCgo }

func signWith(uri, []byte, []byte) ([]byte, error) { return nil, errNoCgo }
