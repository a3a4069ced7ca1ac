// Package auth says who somebody is and what they may be: the certificate
// authority of the devices, the tokens they join with, the bearer tokens of
// people and the MQTT users of a home. All of it lives in the store; of secrets
// only hashes do.
//
// Every secret is made here, of 160 random bits. So one round of SHA-256 is
// enough to store them by, and a flood of wrong ones costs nothing.
package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

var (
	// ErrDenied says that a secret, certificate or role does not suffice. What
	// wraps it says why, without saying anything secret.
	ErrDenied = errors.New("access denied")
	// ErrExists says that a name is taken.
	ErrExists = errors.New("already exists")
	// ErrLast says that nobody would be left to give tokens.
	ErrLast = errors.New("the last admin")
	// ErrInvalid says that what was asked for is malformed.
	ErrInvalid = errors.New("invalid")
)

// buckets of the store
const (
	bucketCA    = "auth.ca"    // "ca" → caRecord
	bucketCert  = "auth.cert"  // device/serial → certRecord
	bucketJoin  = "auth.join"  // id → JoinToken
	bucketToken = "auth.token" // name → tokenRecord
	bucketHome  = "auth.home"  // user → homeRecord
)

// Config of an Authority.
type Config struct {
	Hosts []string         // names and addresses of this controller, for its certificate; localhost is always one
	Now   func() time.Time // nil: time.Now
}

// An Authority answers all questions of this package. It may be used by many
// goroutines.
type Authority struct {
	db  *store.Store
	cfg Config
	ca  *ca
}

// Open reads the authority from the store, or makes it at the first start.
func Open(db *store.Store, cfg Config) (*Authority, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	a := &Authority{db: db, cfg: cfg}
	var err error
	if a.ca, err = openCA(db, cfg.Now()); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	return a, nil
}

var secretEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newSecret is 160 random bits in 32 letters and digits.
func newSecret() string {
	var b [20]byte
	rand.Read(b[:]) // never fails: crypto/rand
	return secretEncoding.EncodeToString(b[:])
}

// hash is what is stored of a secret.
func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// same compares a secret with a stored hash in constant time.
func same(secret, stored string) bool {
	return subtle.ConstantTimeCompare([]byte(hash(secret)), []byte(stored)) == 1
}

// A Role is what a bearer token may do.
type Role string

const (
	RoleAdmin    Role = "admin"    // everything
	RoleOperator Role = "operator" // change devices, not people
	RoleViewer   Role = "viewer"   // look
)

// Covers says whether r may do what need may.
func (r Role) Covers(need Role) bool {
	rank := map[Role]int{RoleViewer: 1, RoleOperator: 2, RoleAdmin: 3}
	return rank[r] > 0 && rank[r] >= rank[need]
}

// A Principal is who holds a bearer token.
type Principal struct {
	Name    string    `json:"name"`
	Role    Role      `json:"role"`
	Created time.Time `json:"created"`
}

type tokenRecord struct {
	Principal
	Hash string `json:"hash"`
}

const bearerPrefix = "covey-"

// AddToken makes a bearer token for a person or a program. The token is shown
// this once. ErrExists when the name is taken, ErrInvalid for a bad name or role.
func (a *Authority) AddToken(name string, role Role) (token string, err error) {
	if !wire.ValidID(name) || !role.Covers(RoleViewer) {
		return "", fmt.Errorf("token %q with role %q: %w: a name is [a-z0-9-]{1,32}, a role admin, operator or viewer", name, role, ErrInvalid)
	}
	token = bearerPrefix + newSecret()
	return token, a.putToken(name, role, token, false)
}

func (a *Authority) putToken(name string, role Role, token string, replace bool) error {
	return a.db.Update(func(tx *store.Tx) error {
		if !replace && store.Has(tx, bucketToken, name) {
			return fmt.Errorf("token %q: %w", name, ErrExists)
		}
		return store.Put(tx, bucketToken, name, tokenRecord{Principal{name, role, a.cfg.Now().UTC()}, hash(token)})
	})
}

// RemoveToken ends a bearer token; store.ErrNotFound when there is none, ErrLast
// when there would be no admin without it.
func (a *Authority) RemoveToken(name string) error {
	return a.db.Update(func(tx *store.Tx) error {
		gone, err := store.Get[tokenRecord](tx, bucketToken, name)
		if err != nil {
			return fmt.Errorf("token %q: %w", name, err)
		}
		admins := 0
		err = store.Each(tx, bucketToken, "", func(_ string, t tokenRecord) error {
			if t.Role == RoleAdmin {
				admins++
			}
			return nil
		})
		if err != nil {
			return err
		}
		if gone.Role == RoleAdmin && admins == 1 {
			return fmt.Errorf("token %q: %w", name, ErrLast)
		}
		return store.Delete(tx, bucketToken, name)
	})
}

func (a *Authority) remove(bucket, key string) error {
	return a.db.Update(func(tx *store.Tx) error {
		if !store.Has(tx, bucket, key) {
			return fmt.Errorf("%q: %w", key, store.ErrNotFound)
		}
		return store.Delete(tx, bucket, key)
	})
}

// Tokens lists the holders of bearer tokens by name.
func (a *Authority) Tokens() (list []Principal, err error) {
	err = a.db.View(func(tx *store.Tx) error {
		return store.Each(tx, bucketToken, "", func(_ string, t tokenRecord) error {
			list = append(list, t.Principal)
			return nil
		})
	})
	return list, err
}

// Bearer says whose token this is. Every stored hash is compared, in constant
// time each. ErrDenied when it is nobody's.
func (a *Authority) Bearer(token string) (p Principal, err error) {
	if len(token) > 128 {
		return p, fmt.Errorf("bearer token: %w: too long", ErrDenied)
	}
	err = a.db.View(func(tx *store.Tx) error {
		return store.Each(tx, bucketToken, "", func(_ string, t tokenRecord) error {
			if same(token, t.Hash) {
				p = t.Principal
			}
			return nil
		})
	})
	if err == nil && p.Name == "" {
		err = fmt.Errorf("bearer token: %w: not known here; use `covey login`, or make one with `covey token add`", ErrDenied)
	}
	return p, err
}

// Admin makes the first admin's token unless there is one. save must have put
// the token where the person finds it, for good, before it returns: only then
// is its hash stored. made says whether a token was made.
func (a *Authority) Admin(save func(token string) error) (made bool, err error) {
	var have bool
	err = a.db.View(func(tx *store.Tx) error {
		have = store.First(tx, bucketToken, "") != ""
		return nil
	})
	if err != nil || have {
		return false, err
	}
	token := bearerPrefix + newSecret()
	if err := save(token); err != nil {
		return false, err
	}
	return true, a.putToken("admin", RoleAdmin, token, true)
}

// A Home is an MQTT user of a house on the embedded broker.
type Home struct {
	User    string    `json:"user"`
	Created time.Time `json:"created"`
}

type homeRecord struct {
	Home
	Hash string `json:"hash"`
}

// AddHome makes a home's MQTT user. The password is shown this once.
func (a *Authority) AddHome(user string) (password string, err error) {
	if !wire.ValidID(user) {
		return "", fmt.Errorf("home user %q: %w: a name is [a-z0-9-]{1,32}", user, ErrInvalid)
	}
	password = newSecret()
	return password, a.db.Update(func(tx *store.Tx) error {
		if store.Has(tx, bucketHome, user) {
			return fmt.Errorf("home user %q: %w; remove it first for a new password", user, ErrExists)
		}
		return store.Put(tx, bucketHome, user, homeRecord{Home{user, a.cfg.Now().UTC()}, hash(password)})
	})
}

// RemoveHome ends a home's MQTT user; store.ErrNotFound when there is none. The
// caller kicks its connections.
func (a *Authority) RemoveHome(user string) error { return a.remove(bucketHome, user) }

// Homes lists the homes' MQTT users by name.
func (a *Authority) Homes() (list []Home, err error) {
	err = a.db.View(func(tx *store.Tx) error {
		return store.Each(tx, bucketHome, "", func(_ string, h homeRecord) error {
			list = append(list, h.Home)
			return nil
		})
	})
	return list, err
}

// Home says whether the password is the home user's: nil, or ErrDenied. A user
// that does not exist takes as long as a wrong password.
func (a *Authority) Home(user, password string) error {
	h := homeRecord{Hash: strings.Repeat("0", 64)}
	err := a.db.View(func(tx *store.Tx) (err error) {
		if r, err := store.Get[homeRecord](tx, bucketHome, user); !errors.Is(err, store.ErrNotFound) {
			h = r
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !same(password, h.Hash) {
		return fmt.Errorf("home user: %w: wrong user or password", ErrDenied)
	}
	return nil
}
