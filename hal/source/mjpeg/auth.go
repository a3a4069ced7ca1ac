package mjpeg

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// A login is who asks.
type login struct{ user, password string }

// A challenge is what a server wants to know (RFC 7617 basic, RFC 7616 digest).
type challenge struct {
	scheme    string // "basic" or "digest"
	realm     string
	nonce     string
	opaque    string
	algorithm string // as it was given; "": MD5
	qop       bool   // with "auth"; else as in RFC 2069

	asked uint32 // how often the nonce was used
}

// hashes of digest, best first.
var hashes = []struct {
	name string
	new  func() hash.Hash
}{{"SHA-256", sha256.New}, {"MD5", md5.New}}

// hash is that of the algorithm; nil when it is not known.
func (c *challenge) hash() func() hash.Hash {
	name := strings.TrimSuffix(strings.ToUpper(c.algorithm), "-SESS")
	if name == "" {
		name = "MD5"
	}
	for _, h := range hashes {
		if h.name == name {
			return h.new
		}
	}
	return nil
}

func (c *challenge) session() bool { return strings.HasSuffix(strings.ToUpper(c.algorithm), "-SESS") }

// strength orders challenges; 0: it cannot be answered.
func (c *challenge) strength() int {
	switch {
	case c.scheme == "basic":
		return 1
	case c.scheme != "digest" || c.nonce == "" || c.hash() == nil:
		return 0
	case strings.HasPrefix(strings.ToUpper(c.algorithm), "SHA-256"):
		return 3
	}
	return 2
}

// choose takes the strongest challenge of an answer's headers; nil: there is none
// that can be answered.
func choose(headers []string) *challenge {
	var best *challenge
	for _, h := range headers {
		for _, c := range parseChallenges(h) {
			if s := c.strength(); s > 0 && (best == nil || s > best.strength()) {
				best = c
			}
		}
	}
	return best
}

// answer is the Authorization header.
func (c *challenge) answer(l login, method, uri string) string {
	if c.scheme == "basic" {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(l.user+":"+l.password))
	}
	c.asked++
	return c.digest(l, method, uri, rand.Text())
}

// digest is the answer with a number of the client's own.
func (c *challenge) digest(l login, method, uri, cnonce string) string {
	h := func(parts ...string) string {
		sum := c.hash()()
		sum.Write([]byte(strings.Join(parts, ":")))
		return hex.EncodeToString(sum.Sum(nil))
	}
	count := fmt.Sprintf("%08x", c.asked)
	secret := h(l.user, c.realm, l.password)
	if c.session() {
		secret = h(secret, c.nonce, cnonce)
	}
	response := h(secret, c.nonce, h(method, uri))
	if c.qop {
		response = h(secret, c.nonce, count, cnonce, "auth", h(method, uri))
	}
	var b strings.Builder
	fmt.Fprintf(&b, `Digest username=%s, realm=%s, nonce=%s, uri=%s, response="%s"`, quote(l.user), quote(c.realm), quote(c.nonce), quote(uri), response)
	if c.algorithm != "" {
		fmt.Fprintf(&b, ", algorithm=%s", c.algorithm) // one of hashes
	}
	if c.opaque != "" {
		fmt.Fprintf(&b, ", opaque=%s", quote(c.opaque))
	}
	if c.qop {
		fmt.Fprintf(&b, `, qop=auth, nc=%s, cnonce="%s"`, count, cnonce)
	} else if c.session() {
		fmt.Fprintf(&b, `, cnonce="%s"`, cnonce)
	}
	return b.String()
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// parseChallenges reads a WWW-Authenticate header (RFC 9110, 11.6.1): challenges,
// each a scheme and parameters, all with commas between. It stops at what it cannot
// read.
func parseChallenges(s string) []*challenge {
	var all []*challenge
	for {
		s = strings.TrimLeft(s, ", \t")
		word, rest := token(s)
		if word == "" {
			return all
		}
		rest = strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(rest, "=") {
			all, s = append(all, &challenge{scheme: strings.ToLower(word)}), rest
			continue
		}
		value, rest, ok := value(strings.TrimLeft(rest[1:], " \t"))
		if !ok || len(all) == 0 {
			return all
		}
		all[len(all)-1].set(strings.ToLower(word), value)
		s = rest
	}
}

// set takes in a parameter. The ones that are not known mean nothing.
func (c *challenge) set(name, value string) {
	switch name {
	case "realm":
		c.realm = value
	case "nonce":
		c.nonce = value
	case "opaque":
		c.opaque = value
	case "algorithm":
		c.algorithm = value
	case "qop":
		for q := range strings.SplitSeq(value, ",") {
			c.qop = c.qop || strings.EqualFold(strings.TrimSpace(q), "auth")
		}
	}
}

// token is the word at the beginning of s, and the rest.
func token(s string) (word, rest string) {
	end := strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	})
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:]
}

// value is the word or the quoted text at the beginning of s, and the rest.
func value(s string) (v, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		v, rest = token(s)
		return v, rest, v != ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}
