package local

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// ServeHTTP lets in who may come in: a call that is not named open is closed.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'self'; object-src 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	defer func() {
		if v := recover(); v != nil {
			s.cfg.Log.Error().Interface("panic", v).Str("method", r.Method).Str("path", r.URL.Path).Msg("request failed")
			panic(http.ErrAbortHandler) // cuts the connection: who knows what was said already
		}
	}()
	if err := s.admit(r); err != nil {
		s.refuse(w, r, err)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	s.mux.ServeHTTP(w, r)
}

// admit says why a request is turned away; nil when it is not.
func (s *Server) admit(r *http.Request) error {
	from, ingress := s.from(r)
	if !ingress && !hostAllowed(r.Host, s.hosts) {
		return problem(http.StatusMisdirectedRequest, codeForbidden, "the board is not known by this name").
			fixed("open it by its address, or add the name to `hosts:` under `local:`")
	}
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	if site := r.Header.Get("Sec-Fetch-Site"); strings.HasPrefix(r.URL.Path, "/api/") && site != "" && site != "same-origin" && site != "none" ||
		!reads && !sameOrigin(r.Header, r.Host, ingress) {
		return problem(http.StatusForbidden, codeForbidden, "the request comes from another page than the board's")
	}
	switch path := r.URL.Path; {
	case path == "/api/v1/session", reads && !strings.HasPrefix(path, "/api/") && path != "/metrics":
		return nil // the page itself, healthz, readyz; and how one gets in
	case path == "/metrics" && from.IsLoopback() && r.Header.Get("X-Forwarded-For") == "":
		return nil
	}
	return s.identify(r, from, ingress)
}

// identify looks for one of the proofs of being allowed in.
func (s *Server) identify(r *http.Request, from netip.Addr, ingress bool) error {
	switch {
	case ingress, s.open(from):
		return nil
	case r.Header.Get("Authorization") != "":
		token, _ := bearer(r.Header.Get("Authorization"))
		switch right, allowed := s.attempts.try(from, func() bool { return s.knows(token) }); {
		case right:
			return nil
		case !allowed:
			return tooManyAttempts()
		}
	case s.sessions.valid(cookie(r)):
		if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Header.Get("Origin") == "" {
			return problem(http.StatusForbidden, codeForbidden, "the request does not say which page it comes from")
		}
		return nil
	}
	return problem(http.StatusUnauthorized, codeUnauthorized, "the board does not know who asks").
		fixed("log in, or send `Authorization: Bearer` with the token or the password")
}

// knows takes the password and the token alike.
func (s *Server) knows(secret string) bool { return s.password.is(secret) || s.token.is(secret) }

// open says whether nobody is asked for a password: on the board itself, where none
// is set.
func (s *Server) open(from netip.Addr) bool {
	return s.password == nil && s.token == nil && from.IsLoopback()
}

// from is the address that a request comes from, and whether Home Assistant brings it.
func (s *Server) from(r *http.Request) (addr netip.Addr, ingress bool) {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, false
	}
	addr = at.Addr().Unmap().WithZone("")
	return addr, s.cfg.Ingress.IsValid() && addr == s.cfg.Ingress.Unmap() && r.Header.Get("X-Ingress-Path") != ""
}

// hostNames are the names by which the board may be called.
func hostNames(names []string) map[string]bool {
	hosts := map[string]bool{"localhost": true}
	for _, n := range names {
		n = strings.TrimSuffix(strings.ToLower(n), ".")
		if n == "" {
			continue // no name is nobody's
		}
		hosts[n] = true
		if !strings.Contains(n, ".") {
			hosts[n+".local"] = true
		}
	}
	return hosts
}

// hostAllowed keeps out pages of others that have had their own name point at the
// board (DNS rebinding): they come by a name, never by an address.
func hostAllowed(host string, names map[string]bool) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Zone() == ""
	}
	return names[strings.TrimSuffix(strings.ToLower(host), ".")]
}

// sameOrigin says whether a request that changes something comes from a page of this
// board, or from no page. A browser says where from, always.
func sameOrigin(h http.Header, host string, ingress bool) bool {
	origins := h.Values("Origin")
	if len(origins) == 0 {
		return true
	}
	u, err := url.Parse(origins[0])
	if len(origins) > 1 || err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	ours := bare(u.Scheme, host) == bare(u.Scheme, u.Host)
	if forwarded := h.Get("X-Forwarded-Host"); ingress && forwarded != "" {
		ours = ours || bare(u.Scheme, forwarded) == bare(u.Scheme, u.Host)
	}
	return ours
}

// bare is a host without the port that goes without saying.
func bare(scheme, host string) string {
	port := ":80"
	if scheme == "https" {
		port = ":443"
	}
	return strings.TrimSuffix(strings.ToLower(host), port)
}

func bearer(header string) (token string, ok bool) {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return "", false
	}
	return strings.TrimSpace(token), true
}

// A secret is kept as its hash. A nil one is nobody's.
type secret [sha256.Size]byte

func newSecret(text string) *secret {
	if text == "" {
		return nil
	}
	s := secret(sha256.Sum256([]byte(text)))
	return &s
}

// is takes the same time whatever is guessed.
func (s *secret) is(guess string) bool {
	if s == nil {
		return false
	}
	h := sha256.Sum256([]byte(guess))
	return subtle.ConstantTimeCompare(s[:], h[:]) == 1
}
