//go:build cgo

package main

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// Of PKCS #11 3.0, which the binding does not name.
const (
	eddsa       = 0x1057
	ecEdwards   = 0x40
	maxTokenKey = 64 // bytes of a public key, as tokens write it
)

// open finds the token and begins a session with it. close ends it.
func open(u uri) (c *pkcs11.Ctx, session pkcs11.SessionHandle, end func(), err error) {
	c = pkcs11.New(u.module)
	if c == nil {
		return nil, 0, nil, fmt.Errorf("%s cannot be loaded: name the library of the token behind ?module-path=", u.module)
	}
	end = c.Destroy
	if err = c.Initialize(); err == nil {
		end = func() { _ = c.Finalize(); c.Destroy() }
		var slot uint
		if slot, err = find(c, u); err == nil {
			session, err = c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
		}
	}
	if err != nil {
		end()
		return nil, 0, nil, err
	}
	return c, session, end, nil
}

// find is the slot of the one token that is meant.
func find(c *pkcs11.Ctx, u uri) (uint, error) {
	slots, err := c.GetSlotList(true)
	if err != nil {
		return 0, err
	}
	var found []uint
	var labels []string
	for _, s := range slots {
		info, err := c.GetTokenInfo(s)
		if err != nil || info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		label, serial := strings.TrimRight(info.Label, " \x00"), strings.TrimRight(info.SerialNumber, " \x00")
		labels = append(labels, label)
		if (u.token == "" || u.token == label) && (u.serial == "" || u.serial == serial) {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%d tokens are called %q: there are %q; tell them apart by serial=", len(found), u.token+u.serial, labels)
	}
	return found[0], nil
}

// key finds the one key of a class.
func key(c *pkcs11.Ctx, s pkcs11.SessionHandle, u uri, class uint) (pkcs11.ObjectHandle, error) {
	like := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, ecEdwards)}
	if u.object != "" {
		like = append(like, pkcs11.NewAttribute(pkcs11.CKA_LABEL, u.object))
	}
	if u.id != "" {
		like = append(like, pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(u.id)))
	}
	if err := c.FindObjectsInit(s, like); err != nil {
		return 0, err
	}
	found, _, err := c.FindObjects(s, 2)
	if err = errors.Join(err, c.FindObjectsFinal(s)); err != nil {
		return 0, err
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%d ed25519 keys in the token are called %q: make one with pkcs11-tool --keypairgen --key-type EC:edwards25519, or tell them apart by id=", len(found), u.object+u.id)
	}
	return found[0], nil
}

// publicOf reads the public half, which needs no PIN.
func publicOf(u uri) (ed25519.PublicKey, error) {
	c, s, end, err := open(u)
	if err != nil {
		return nil, err
	}
	defer end()
	object, err := key(c, s, u, pkcs11.CKO_PUBLIC_KEY)
	if err != nil {
		return nil, err
	}
	list, err := c.GetAttributeValue(s, object, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)})
	if err != nil || len(list) != 1 {
		return nil, fmt.Errorf("the token does not give the key's public half: %v", err)
	}
	point := list[0].Value
	if len(point) > maxTokenKey {
		return nil, fmt.Errorf("a public key of %d bytes", len(point))
	}
	// Bare as of PKCS #11 3.1, in an OCTET STRING as of 3.0, and some use a BIT STRING.
	for _, head := range [][]byte{{4, 32}, {3, 33, 0}, {}} {
		if rest, ok := bytes.CutPrefix(point, head); ok && len(rest) == ed25519.PublicKeySize {
			return rest, nil
		}
	}
	return nil, fmt.Errorf("%x is no public key of ed25519", point)
}

// signWith lets the token sign. A wrong PIN is not tried again: a token locks itself.
func signWith(u uri, pin, message []byte) ([]byte, error) {
	c, s, end, err := open(u)
	if err != nil {
		return nil, err
	}
	defer end()
	if pin != nil {
		err = c.Login(s, pkcs11.CKU_USER, string(pin))
		var code pkcs11.Error
		if errors.As(err, &code) && code == pkcs11.CKR_PIN_INCORRECT {
			err = errors.New("this is not the token's PIN; a few more of those lock it")
		}
		if err != nil {
			return nil, err
		}
	}
	object, err := key(c, s, u, pkcs11.CKO_PRIVATE_KEY)
	if err != nil {
		return nil, err
	}
	if err := c.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(eddsa, nil)}, object); err != nil {
		return nil, fmt.Errorf("the token does not sign by ed25519: %w", err)
	}
	return c.Sign(s, message)
}
