package trust

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"maps"
	"slices"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// count is how many of a role's keys have signed a message. A key counts once.
func count(keys map[string]*metadata.Key, role []string, message []byte, signatures []metadata.Signature) int {
	return len(signers(keys, role, message, signatures))
}

// signers are the names of those keys, sorted.
func signers(keys map[string]*metadata.Key, role []string, message []byte, signatures []metadata.Signature) []string {
	good := map[string]bool{}
	for _, s := range signatures {
		key := keys[s.KeyID]
		if key == nil || !slices.Contains(role, s.KeyID) {
			continue
		}
		public, err := key.ToPublicKey()
		p, ok := public.(ed25519.PublicKey)
		if err == nil && ok && len(p) == ed25519.PublicKeySize && ed25519.Verify(p, message, s.Signature) {
			good[s.KeyID] = true
		}
	}
	return slices.Sorted(maps.Keys(good))
}

// sign adds a signer's signature to those of a message, in the place of its last one.
func sign(ctx context.Context, signer Signer, message []byte, signatures []metadata.Signature) ([]metadata.Signature, error) {
	b, err := signer.Sign(ctx, message)
	if err != nil {
		return nil, err
	}
	id := KeyID(signer.Public())
	list := slices.DeleteFunc(slices.Clone(signatures), func(s metadata.Signature) bool { return s.KeyID == id })
	return append(list, metadata.Signature{KeyID: id, Signature: b}), nil
}

// SignDirected makes the document that VerifyDirected reads, of any JSON object whose
// numbers are whole. The same value and key give the same bytes.
func SignDirected(ctx context.Context, signer Signer, v any) ([]byte, error) {
	signed, err := cjson.EncodeCanonical(v)
	if err != nil {
		return nil, err
	}
	signatures, err := sign(ctx, signer, signed, nil)
	if err != nil {
		return nil, err
	}
	// By hand: an encoder would write "<" otherwise, and that is not what was signed.
	b, err := json.Marshal(signatures)
	return slices.Concat([]byte(`{"signed":`), signed, []byte(`,"signatures":`), b, []byte("}")), err
}
