// Package trust says who may say what runs. People sign what may run, offline, in a
// TUF repository of images: a root that names keys and thresholds and can be rotated
// in band, targets that name releases by length and SHA-256, a delegation for each
// model family that has keys of its own, and a snapshot and a timestamp that keep all
// of it together and fresh. The controller signs what a device should run, its desired
// document, with the director's key, which the same root names and can revoke. A
// device activates only what both name (Uptane's two repositories; TUF: The Update
// Framework, specification 1.0.31).
//
// A Set is the device's side: it verifies, and forgets nothing that protects it from
// going back. A Repository is the side of those who sign.
package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/covey-edge/covey/hal"
)

// Bounds of what a device is sent.
const (
	MaxBundle    = 1 << 20   // bytes, of all metadata as JSON
	maxFile      = 256 << 10 // bytes, of one metadata file
	maxRoots     = 32        // rotations since the device was last told
	maxFamilies  = 64        // delegated roles
	maxRootChain = 1 << 10   // versions of a root, ever
)

// A Fingerprint is the SHA-256 of the first root's file, in hex: what a device is
// handed when it joins.
type Fingerprint string

// FingerprintOf is the fingerprint of a first root.
func FingerprintOf(root []byte) Fingerprint {
	sum := sha256.Sum256(root)
	return Fingerprint(hex.EncodeToString(sum[:]))
}

// A Bundle is all that a device needs to verify what may run, in one message. The
// bytes of each file are kept as they are: they are what hashes are of.
type Bundle struct {
	// Roots begin anywhere at or before the one that follows the receiver's own, each
	// followed by the next version. The first root of all is version 1.
	Roots     [][]byte          `json:"roots"`
	Timestamp []byte            `json:"timestamp"`
	Snapshot  []byte            `json:"snapshot"`
	Targets   []byte            `json:"targets"`
	Families  map[string][]byte `json:"families,omitempty"` // of delegated roles, by name
}

// Encode is what ParseBundle reads.
func (b Bundle) Encode() []byte {
	p, err := json.Marshal(b)
	if err != nil {
		panic(err) // bytes only
	}
	return p
}

// ParseBundle reads a bundle and checks its bounds; it verifies nothing.
func ParseBundle(p []byte) (Bundle, error) {
	var b Bundle
	if len(p) > MaxBundle {
		return b, coded(hal.CodeLength, "trust metadata has %d bytes, at most %d are read", len(p), MaxBundle)
	}
	if err := json.Unmarshal(p, &b); err != nil {
		return Bundle{}, coded(hal.CodeJSON, "trust metadata: %v", err)
	}
	if err := b.check(); err != nil {
		return Bundle{}, err
	}
	return b, nil
}

func (b Bundle) check() error {
	if len(b.Roots) > maxRootChain || len(b.Families) > maxFamilies {
		return coded(hal.CodeLength, "trust metadata has %d roots and %d families, at most %d and %d are read", len(b.Roots), len(b.Families), maxRootChain, maxFamilies)
	}
	size := len(b.Timestamp) + len(b.Snapshot) + len(b.Targets)
	for _, f := range append([][]byte{b.Timestamp, b.Snapshot, b.Targets}, b.Roots...) {
		if len(f) > maxFile {
			return coded(hal.CodeLength, "a file of trust metadata has %d bytes, at most %d are read", len(f), maxFile)
		}
	}
	for _, f := range b.Roots {
		size += len(f)
	}
	for _, f := range b.Families {
		size += len(f)
	}
	if size > MaxBundle {
		return coded(hal.CodeLength, "trust metadata has %d bytes, at most %d are read", size, MaxBundle)
	}
	return nil
}

// A Target is a release that may run: what the images repository says of it.
type Target struct {
	Name   string // TargetName's
	Length int64  // of the manifest, bytes
	SHA256 string // of the manifest: the release's digest
	Role   string // that signed it: "targets", or a family
}

// TargetName is what the images repository calls a release: "birds/1.2.0". Delegations
// are by its first part.
func TargetName(release, version string) string { return release + "/" + version }

// PilotName is what it calls a release that may run on boards of the pilot channel, by
// their own configuration, and on no others: "pilot/birds/1.2.0". The keys that sign
// releases delegate such names, so that one key is enough for a pilot, and whoever
// steals it gets no further. No release's own name looks like this: it has no slash.
func PilotName(release, version string) string { return pilot + TargetName(release, version) }

// pilot begins the names of the pilot channel.
const pilot = "pilot/"

// Pilot is what Delegate calls a release's name in the pilot channel; "*" is any.
func Pilot(release string) string { return pilot + release }

func coded(code hal.Code, format string, args ...any) error {
	return &hal.Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// refused gives an error of go-tuf the code of the attack that it looks like. file
// names what was being read.
func refused(file string, err error) error {
	if err == nil || hal.CodeOf(err) != "" {
		return err
	}
	code := hal.CodeTrust
	switch {
	case is[*metadata.ErrExpiredMetadata](err):
		code = hal.CodeExpired
	case is[*metadata.ErrBadVersionNumber](err), is[*metadata.ErrEqualVersionNumber](err):
		code = hal.CodeRollback
	case is[*metadata.ErrUnsignedMetadata](err):
		code = hal.CodeSignature
	case is[*metadata.ErrLengthOrHashMismatch](err), is[*metadata.ErrDownloadLengthMismatch](err):
		code = hal.CodeMixed
	}
	return &hal.Error{Code: code, Text: file + ": " + oneLine(err.Error()), Err: err}
}

func is[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// maxText is the longest text of an error that is passed on.
const maxText = 300

func oneLine(s string) string {
	b := []byte(s[:min(len(s), maxText)])
	for i, c := range b {
		if c < ' ' || c == 0x7f {
			b[i] = ' '
		}
	}
	return strings.TrimSpace(string(b))
}
