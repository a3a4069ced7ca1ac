package main

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// A uri names a key in a token (RFC 7512), as in
// "pkcs11:token=covey;object=ada?module-path=/usr/lib/softhsm/libsofthsm2.so".
type uri struct {
	token, serial string // of the token; "" is any
	object, id    string // of the key; "" is any
	module        string // library of the token's vendor
}

// defaultModule speaks for all modules that a machine is set up for.
const defaultModule = "p11-kit-proxy.so"

// maxURI bounds it, bytes.
const maxURI = 4096

func parseURI(s string) (uri, error) {
	rest, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok || len(s) > maxURI {
		return uri{}, errors.New("a key in a token is named like pkcs11:token=covey;object=ada?module-path=/usr/lib/softhsm/libsofthsm2.so")
	}
	u := uri{module: defaultModule}
	path, query, _ := strings.Cut(rest, "?")
	kind := "private"
	known := map[string]*string{"token": &u.token, "serial": &u.serial, "object": &u.object, "id": &u.id, "type": &kind}
	if err := attributes(path, ";", known); err != nil {
		return uri{}, err
	}
	if err := attributes(query, "&", map[string]*string{"module-path": &u.module}); err != nil {
		return uri{}, err
	}
	switch {
	case u.token == "" && u.serial == "", u.object == "" && u.id == "":
		return uri{}, errors.New("name a token (token=…) and a key in it (object=… or id=%01)")
	case kind != "private" && kind != "public":
		return uri{}, fmt.Errorf("type=%.40s is no key that signs", kind)
	case u.module != defaultModule && (!filepath.IsAbs(u.module) || filepath.Clean(u.module) != u.module):
		return uri{}, fmt.Errorf("module-path=%.200s: write an absolute path", u.module)
	}
	return u, nil
}

// attributes reads name=value pairs, each name once.
func attributes(s, between string, known map[string]*string) error {
	if s == "" {
		return nil
	}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(s, between) {
		name, value, ok := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "pin-") {
			return errors.New("a PIN has no place in the name of a key: give a --passphrase-file, which may be /dev/fd/3")
		}
		text, err := url.PathUnescape(value)
		to := known[name]
		if !ok || err != nil || to == nil || seen[name] || text == "" || strings.ContainsRune(text, 0) && name != "id" {
			return fmt.Errorf("%.60q is not known, empty, or there twice: token, serial, object, id and module-path are read", pair)
		}
		seen[name], *to = true, text
	}
	return nil
}
