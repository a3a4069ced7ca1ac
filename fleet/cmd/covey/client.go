package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
)

// A client calls one controller.
type client struct {
	s    session
	http *http.Client
}

const (
	maxAnswer = 64 << 20 // bytes of one answer
	maxEvent  = 16 << 20 // bytes of one event of a stream
	// quiet is how long a stream may say nothing: the controller says something
	// every 15 s.
	quiet = 45 * time.Second
)

func newClient(s session) *client {
	tr := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
		ResponseHeaderTimeout: time.Minute, IdleConnTimeout: 30 * time.Second,
	}
	if s.CA != "" {
		tr.TLSClientConfig = pinned(s)
	}
	return &client{s: s, http: &http.Client{Transport: tr}}
}

// client is one for the controller in use.
func (a *app) client() (*client, error) {
	s, err := a.session()
	if err != nil {
		return nil, err
	}
	return newClient(s), nil
}

var (
	errPin   = errors.New("this is not the controller whose CA was named")
	errQuiet = errors.New("it said nothing for " + quiet.String())
)

// pinned trusts the one CA with the session's hash, which the server must send
// along. All else is verified as usual, the name too.
func pinned(s session) *tls.Config {
	host := ""
	if u, err := url.Parse(s.URL); err == nil { // a bad one fails at the first request
		host = u.Hostname()
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection does it, against the one CA
		VerifyConnection: func(cs tls.ConnectionState) error {
			roots, inter := x509.NewCertPool(), x509.NewCertPool()
			found := false
			for _, c := range cs.PeerCertificates[1:] {
				if sum := sha256.Sum256(c.Raw); hex.EncodeToString(sum[:]) == s.CA {
					roots.AddCert(c)
					found = true
				} else {
					inter.AddCert(c)
				}
			}
			if !found {
				return errPin
			}
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: inter})
			return err
		},
	}
}

// send makes one request. The caller closes the answer's body. The error is a
// failure.
func (c *client) send(ctx context.Context, method, path string, body io.Reader, length int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.s.URL+path, body)
	if err != nil {
		return nil, usage("", "%s", err)
	}
	if length >= 0 {
		req.ContentLength = length
	}
	req.Header.Set("Authorization", "Bearer "+c.s.Token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		return nil, problemOf(resp)
	}
	return resp, nil
}

func (c *client) unreachable(err error) *failure {
	f := &failure{code: exitUnreachable, what: fmt.Sprintf("cannot reach %s: %v", c.s.URL, reason(err)), fix: "is the controller running there, and is the address right?"}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.Is(err, errPin):
		f.fix = "compare with the hash of ca.pem in the controller's data folder, then log in again"
	case errors.As(err, &unknown):
		f.fix = "log in with --ca or --ca-hash: the controller has a CA of its own"
	case errors.As(err, &name):
		f.fix = "log in with a name that the controller has, or start it with --host"
	}
	return f
}

// reason is the innermost error that says enough.
func reason(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil || strings.HasPrefix(err.Error(), "dial ") {
			return err
		}
		err = inner
	}
}

func problemOf(resp *http.Response) *failure {
	var p v1.Problem
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxFile))
	if json.Unmarshal(b, &p) != nil || p.Code == "" {
		return &failure{code: exitFailed, what: fmt.Sprintf("the controller answered %s", resp.Status), fix: "is that a Covey controller?"}
	}
	f := &failure{code: exitFailed, what: p.Detail, fix: p.Fix, cause: p}
	switch p.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
		f.code = exitRefused
	case http.StatusNotFound:
		f.code = exitNotFound
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
		f.code = exitUsage
	case http.StatusConflict:
		if p.Code == v1.CodeRefused {
			f.code = exitRefused
		}
	}
	return f
}

// call sends in as JSON and reads the answer into out; both may be nil.
func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	length := int64(-1)
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body, length = bytes.NewReader(b), int64(len(b))
	}
	resp, err := c.send(ctx, method, path, body, length)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return c.unreachable(fmt.Errorf("read answer: %w", err))
	}
	return nil
}

// stream hands every event to fn until the controller ends the stream or fn
// returns an error. A stream that falls silent is cut.
func (c *client) stream(ctx context.Context, path string, fn func(event string, data []byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alarm := time.AfterFunc(quiet, func() { cancel(errQuiet) })
	defer alarm.Stop()
	resp, err := c.send(ctx, "GET", path, nil, -1)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	event := ""
	s := bufio.NewScanner(resp.Body)
	s.Buffer(nil, maxEvent)
	for s.Scan() {
		alarm.Reset(quiet)
		if v, ok := strings.CutPrefix(s.Text(), "event: "); ok {
			event = v
		}
		v, ok := strings.CutPrefix(s.Text(), "data: ")
		if !ok || event == "ping" {
			continue
		}
		if err := fn(event, []byte(v)); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		if context.Cause(ctx) == errQuiet {
			err = errQuiet
		}
		return c.unreachable(err)
	}
	return nil
}
