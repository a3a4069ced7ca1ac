package wire

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
)

// A JoinToken is what an operator hands to a new device: where the controller
// is, how to know it, and a secret that lets one device (or a counted number) in.
type JoinToken struct {
	URL    string `json:"url"`    // https://host:port of the REST API
	CA     string `json:"ca"`     // SHA-256 of the CA certificate's DER, hex
	Secret string `json:"secret"` // never logged
}

const joinPrefix = "covey-join-"

// Encode writes the token as one word.
func (t JoinToken) Encode() string {
	b, err := json.Marshal(t)
	if err != nil {
		panic(err) // three strings
	}
	return joinPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// String hides the secret, so that a token in a log line gives nothing away.
func (t JoinToken) String() string { return "join token for " + t.URL }

// ParseJoinToken reads what Encode wrote. Its errors do not repeat the token.
func ParseJoinToken(s string) (JoinToken, error) {
	var t JoinToken
	s, ok := strings.CutPrefix(strings.TrimSpace(s), joinPrefix)
	if !ok {
		return t, errors.New("not a join token: it begins with " + joinPrefix + "; make one with `covey device token`")
	}
	if len(s) > 4096 {
		return t, errors.New("join token is longer than any that is made")
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return t, errors.New("join token is damaged: copy it whole, or make a new one with `covey device token`")
	}
	p, err := Parse[JoinToken](b, 4096)
	if err != nil {
		return t, errors.New("join token is damaged: copy it whole, or make a new one with `covey device token`")
	}
	return *p, nil
}

// Validate is used by Parse.
func (t *JoinToken) Validate() error {
	u, err := url.Parse(t.URL)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "":
		return errors.New("url is not an https address")
	case !ValidDigest(t.CA):
		return errors.New("ca is not a SHA-256")
	case t.Secret == "":
		return errors.New("secret is missing")
	}
	return nil
}

// EnrolRequest is the body of POST /v1/enrol; the token's secret is the bearer.
type EnrolRequest struct {
	ID  DeviceID `json:"id"`  // wanted
	CSR string   `json:"csr"` // PEM; its CN is the id
}

// EnrolResponse is the answer. For POST /v1/renew, which a device calls with its
// certificate as its proof, it is the same.
type EnrolResponse struct {
	ID   DeviceID `json:"id"`
	Cert string   `json:"cert"` // PEM, leaf first
	CA   string   `json:"ca"`   // PEM
	MQTT string   `json:"mqtt"` // mqtts://host:port
	Root string   `json:"root"` // of the topic tree
	// TrustRoot is the SHA-256 of the first root of those who sign releases, in hex;
	// "" where nobody does. A device keeps what it was told when it joined.
	TrustRoot string `json:"trust_root,omitempty"`
}

// Validate is used by Parse.
func (r *EnrolRequest) Validate() error {
	if !ValidID(string(r.ID)) {
		return errors.New("id is not of [a-z0-9-]{1,32}")
	}
	if r.CSR == "" {
		return errors.New("csr is missing")
	}
	return nil
}

// Validate is used by Parse.
func (r *EnrolResponse) Validate() error {
	u, err := url.Parse(r.MQTT)
	switch {
	case !ValidID(string(r.ID)):
		return errors.New("id is not of [a-z0-9-]{1,32}")
	case r.Cert == "" || r.CA == "":
		return errors.New("certificate is missing")
	case err != nil || u.Host == "":
		return errors.New("mqtt is not an address")
	case r.TrustRoot != "" && !ValidDigest(r.TrustRoot):
		return errors.New("trust_root is not a SHA-256")
	}
	return nil
}
