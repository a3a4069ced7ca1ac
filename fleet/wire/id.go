package wire

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"strings"
)

// A DeviceID names a board: [a-z0-9-]{1,32}, the same in its certificate, its
// topics and its MQTT client id.
type DeviceID string

// A Digest is a SHA-256 in lower-case hex, 64 characters. The digest of a
// release is the digest of its canonical manifest.
type Digest string

const idLetters = "abcdefghijklmnopqrstuvwxyz0123456789-"

// ValidID says whether s may name a device, pipeline, execution or rollout.
func ValidID(s string) bool {
	return len(s) >= 1 && len(s) <= 32 && strings.Trim(s, idLetters) == ""
}

// MakeID makes a valid id out of any text, such as a host name: what is not
// allowed becomes "-". It returns "" when nothing is left.
func MakeID(s string) string {
	s = strings.Map(func(r rune) rune {
		if strings.ContainsRune(idLetters, r) {
			return r
		}
		return '-'
	}, strings.ToLower(s))
	if len(s) > 32 {
		s = s[:32]
	}
	return strings.Trim(s, "-")
}

// ValidDigest says whether s is 64 lower-case hex digits.
func ValidDigest(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// Short is the first 16 digits, for topics; it is not an identity.
func (d Digest) Short() string {
	if len(d) < 16 {
		return string(d)
	}
	return string(d[:16])
}

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID is a fresh random id of 16 letters and digits (80 bits) behind a prefix
// of its kind, as in "ro-abcdefghijklmnop".
func NewID(prefix string) string {
	var b [10]byte
	rand.Read(b[:]) // never fails: crypto/rand
	return fmt.Sprintf("%s-%s", prefix, idEncoding.EncodeToString(b[:]))
}
