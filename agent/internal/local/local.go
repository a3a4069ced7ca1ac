// Package local is the board's own web server: its page, the API that the page is
// made with, and what a monitor asks for. It works without the internet, shows and
// sets nothing but through a Board, and opens no door to the network unless told to.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/covey-edge/covey/hal"
)

// DefaultListen is reachable from the board alone.
const DefaultListen = "127.0.0.1:8099"

// minSecret is the least length of a password or a token.
const minSecret = 8

// Config of a Server. Board is required.
type Config struct {
	Board    Board
	Listen   string // host:port; "" is DefaultListen
	Password string // of people; "": none is asked for on the board itself
	Token    string // of programs, as a bearer token; "": the password is taken
	// Hosts are names that the board is reached by, besides localhost, its addresses
	// and each name with ".local".
	Hosts []string
	// Ingress is the one address from where Home Assistant brings people in whom it
	// has let in itself (172.30.32.2 in an add-on); invalid: there is none.
	Ingress netip.Addr
	Log     zerolog.Logger
}

// A Server is the board's web server. It listens from New on and answers in Run.
type Server struct {
	cfg      Config
	listener *connections
	hosts    map[string]bool
	password *secret // nil: none
	token    *secret // nil: none
	sessions sessions
	attempts attempts
	previews chan struct{} // holds one for each that is open
	doctor   chan struct{} // 1: one examination at a time
	mux      *http.ServeMux
}

// maxPreviews is how many are watched at once: pictures are encoded for each.
const maxPreviews = 4

// New listens. It refuses to be reached from the network by everybody.
func New(cfg Config) (*Server, error) {
	if cfg.Listen == "" {
		cfg.Listen = DefaultListen
	}
	if err := checkDoor(&cfg); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("the page of the board cannot be served: %v; choose another address by `listen:` under `local:`", err), Err: err}
	}
	s := &Server{
		cfg: cfg, listener: newConnections(l, cfg.Ingress), hosts: hostNames(cfg.Hosts),
		password: newSecret(cfg.Password), token: newSecret(cfg.Token),
		previews: make(chan struct{}, maxPreviews), doctor: make(chan struct{}, 1), mux: http.NewServeMux(),
	}
	s.routes()
	return s, nil
}

// checkDoor says what is missing for a door to the network.
func checkDoor(cfg *Config) error {
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("`listen: %s` under `local:` is no host:port; %s is the default", cfg.Listen, DefaultListen), Err: err}
	}
	for _, given := range []struct{ key, secret string }{{"password_file", cfg.Password}, {"token_file", cfg.Token}} {
		if n := len(given.secret); n > 0 && n < minSecret {
			return &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("the file of `%s:` under `local:` holds %d characters: write %d or more", given.key, n, minSecret)}
		}
	}
	addr, err := netip.ParseAddr(host)
	loopback := host == "localhost" || err == nil && addr.IsLoopback()
	if loopback || cfg.Password != "" || cfg.Token != "" || cfg.Ingress.IsValid() {
		return nil
	}
	return &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("`listen: %s` would open the board to everybody on the network: add the line `password_file: page.password` under `local:`, and write a password of %d or more characters into that file (chmod 600)", cfg.Listen, minSecret)}
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run answers until ctx ends. It is called once.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second, // streams and doctor set their own
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          stdlog.New(io.Discard, "", 0), // what strangers send is no news
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	g.Go(func() error {
		if err := srv.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the page of the board: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done() // ends streams, too
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if srv.Shutdown(end) != nil {
			srv.Close()
		}
		return nil
	})
	s.cfg.Log.Info().Str("listen", s.Addr()).Bool("password", s.password != nil || s.token != nil).Msg("page of the board")
	return g.Wait()
}

// routes are all there is. Those under /api/v1 are what the page uses.
func (s *Server) routes() {
	s.mux.HandleFunc("GET /healthz", s.healthz)
	s.mux.HandleFunc("GET /readyz", s.readyz)
	s.mux.HandleFunc("GET /metrics", s.metrics)

	s.api("GET /api/v1/session", s.session)
	s.api("POST /api/v1/session", s.login)
	s.api("DELETE /api/v1/session", s.logout)
	s.api("GET /api/v1/status", s.status)
	s.api("GET /api/v1/events", s.events)
	s.api("GET /api/v1/events/{id}/picture", s.eventPicture)
	s.api("GET /api/v1/doctor", s.examine)
	s.api("GET /api/v1/pipelines/{pipeline}/preview", s.preview)
	s.api("GET /api/v1/pipelines/{pipeline}/preview.mjpeg", s.mjpeg)
	s.api("GET /api/v1/pipelines/{pipeline}/regions", s.regions)
	s.api("PUT /api/v1/pipelines/{pipeline}/regions", s.setRegions)
	s.api("GET /api/v1/pipelines/{pipeline}/settings", s.settings)
	s.api("PUT /api/v1/pipelines/{pipeline}/settings/{setting}", s.set)
	s.api("/api/", func(http.ResponseWriter, *http.Request) error {
		return problem(http.StatusNotFound, codeNotFound, "there is no such call")
	})
	servePage(s.mux)
}

// api registers a call whose errors are told as problems.
func (s *Server) api(pattern string, call func(http.ResponseWriter, *http.Request) error) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := call(w, r); err != nil {
			s.refuse(w, r, err)
		}
	})
}
