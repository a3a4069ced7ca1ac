package local

import (
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"sync"
	"time"
)

const (
	cookieName  = "covey"
	sessionIdle = 12 * time.Hour // without a request
	sessionLife = 7 * 24 * time.Hour
	maxSessions = 32
)

// sessions are of people who have logged in. They end with the program.
type sessions struct {
	mu   sync.Mutex
	live map[[sha256.Size]byte]stay // by the hash of the cookie
}

type stay struct{ began, last time.Time }

func (s stay) over(now time.Time) bool {
	return now.Sub(s.last) > sessionIdle || now.Sub(s.began) > sessionLife
}

// begin makes a session and returns its cookie's value. Beyond maxSessions the one
// that was used least lately ends.
func (s *sessions) begin() string {
	value, now := rand.Text(), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		s.live = map[[sha256.Size]byte]stay{}
	}
	var oldest *[sha256.Size]byte
	for key, is := range s.live {
		if is.over(now) {
			delete(s.live, key)
		} else if oldest == nil || is.last.Before(s.live[*oldest].last) {
			oldest = &key
		}
	}
	if len(s.live) >= maxSessions {
		delete(s.live, *oldest)
	}
	s.live[sha256.Sum256([]byte(value))] = stay{now, now}
	return value
}

func (s *sessions) valid(value string) bool {
	key, now := sha256.Sum256([]byte(value)), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	is, ok := s.live[key]
	if !ok || is.over(now) {
		delete(s.live, key)
		return false
	}
	is.last = now
	s.live[key] = is
	return true
}

func (s *sessions) end(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, sha256.Sum256([]byte(value)))
}

// cookie is the session's, "" when there is none.
func cookie(r *http.Request) string {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return ""
	}
	return c.Value
}

// A Session says whether one must log in, and has.
type Session struct {
	Password bool `json:"password"` // people must log in
	In       bool `json:"in"`       // this one need not, or has
	Leave    bool `json:"leave"`    // and can log out again
}

func (s *Server) session(w http.ResponseWriter, r *http.Request) error {
	from, ingress := s.from(r)
	free := ingress || s.open(from)
	in := s.sessions.valid(cookie(r))
	return answer(w, Session{Password: !free, In: free || in, Leave: !free && in})
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Password string `json:"password"`
	}
	if err := decode(r, &in); err != nil {
		return err
	}
	from, _ := s.from(r)
	switch right, allowed := s.attempts.try(from, func() bool { return s.knows(in.Password) }); {
	case !allowed:
		return tooManyAttempts()
	case !right:
		s.cfg.Log.Warn().Stringer("from", from).Msg("wrong password for the page of the board")
		return problem(http.StatusUnauthorized, codeUnauthorized, "this is not the password").
			fixed("it stands in the file that `password_file:` names in the board's configuration")
	}
	setCookie(w, s.sessions.begin(), int(sessionLife.Seconds()))
	return answer(w, Session{Password: true, In: true, Leave: true})
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) error {
	s.sessions.end(cookie(r))
	setCookie(w, "", -1)
	return s.session(w, withoutCookie(r))
}

func withoutCookie(r *http.Request) *http.Request {
	r = r.Clone(r.Context())
	r.Header.Del("Cookie")
	return r
}

// setCookie names no path: the browser takes the call's folder, behind whatever
// prefix a proxy has put before it.
func setCookie(w http.ResponseWriter, value string, age int) {
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: value, MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

func tooManyAttempts() error {
	return problem(http.StatusTooManyRequests, codeTooMany, "too many wrong passwords").fixed("wait a minute, then try again")
}
