// Package fleet is the controller: it puts the rooms below internal together and
// runs them. A main hands it a Config; nothing else is read from the environment.
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/internal/api"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/broker"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/rollout"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/internal/webhook"
	"github.com/covey-edge/covey/fleet/wire"
)

// Config of a Server.
type Config struct {
	Data    string   // folder of everything the controller keeps; made when missing
	Listen  string   // address of the REST API, HTTPS; port 0 is any
	MQTT    string   // address of the broker, MQTT over TLS; port 0 is any
	Plain   string   // address of the broker without TLS, for homes only; "" is none
	Hosts   []string // names and addresses by which boards reach this machine, the best first; none: found out
	Root    string   // of all topics; "" means covey
	Version string
	Log     zerolog.Logger

	// Webhooks are told when a rollout's state changes.
	Webhooks []Webhook

	// Check examines the database after an unclean stop, in a process of its own:
	// a damaged file can end the one that reads it. ErrInUse says that it could not
	// look, because another controller has the file. Nil: it is not examined.
	Check func(ctx context.Context, path string) error
}

// Endpoints says where a Server is to be found; it is in data/endpoints.json
// while it runs.
type Endpoints struct {
	API   string `json:"api"`             // https://host:port
	MQTT  string `json:"mqtt"`            // mqtts://host:port
	Plain string `json:"plain,omitempty"` // mqtt://host:port
	CA    string `json:"ca"`              // file with the CA's certificate, PEM
	Token string `json:"token"`           // file with the admin's token, made at the first start
	PID   int    `json:"pid"`
}

// ErrInUse says that another controller runs with the same data folder.
var ErrInUse = store.ErrInUse

// Files in the data folder.
const (
	fileStore     = "fleet.db"
	fileCA        = "ca.pem"
	fileToken     = "admin.token"
	fileEndpoints = "endpoints.json"
	fileRunning   = "running" // there from start to clean stop
	dirBlobs      = "blobs"
)

// stopLimit is how long requests under way may take after the stop was asked for.
const stopLimit = 5 * time.Second

// A Server is a controller with its addresses bound and its data open.
type Server struct {
	cfg  Config
	fs   blob.FS
	ends Endpoints

	db      *store.Store
	auth    *auth.Authority
	broker  *broker.Broker
	blobs   *blob.Store
	reg     *registry.Registry
	rollout *rollout.Service
	teller  *webhook.Teller
	listen  net.Listener
	api     *api.API
}

// New opens the data and binds the addresses. Run, or Close, must follow.
func New(ctx context.Context, cfg Config) (s *Server, err error) {
	if cfg.Root == "" {
		cfg.Root = "covey"
	}
	if !wire.ValidID(cfg.Root) {
		return nil, fmt.Errorf("--root %q: use [a-z0-9-]{1,32}", cfg.Root)
	}
	for _, h := range cfg.Hosts {
		if !validHost(h) {
			return nil, fmt.Errorf("--host %q: use a name or an address without a port, as in fleet.example.org", h)
		}
	}
	if len(cfg.Hosts) == 0 {
		cfg.Hosts = hosts()
	}
	s = &Server{cfg: cfg, fs: blob.OS{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.openStore(ctx); err != nil {
		return s, err
	}
	if err := s.openRooms(); err != nil {
		if errors.Is(err, store.ErrCorrupt) {
			err = s.unusable(err)
		}
		return s, err
	}
	if err := s.announce(); err != nil {
		return s, err
	}
	s.api, err = s.openAPI()
	return s, err
}

// Run is New and Server.Run.
func Run(ctx context.Context, cfg Config) error {
	s, err := New(ctx, cfg)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

func (s *Server) path(name string) string { return filepath.Join(s.cfg.Data, name) }

// openStore opens the database; after an unclean stop it is examined first.
func (s *Server) openStore(ctx context.Context) error {
	if err := s.fs.MkdirAll(s.cfg.Data); err != nil {
		return fmt.Errorf("data folder: %w; choose another with --data", blob.Coded(err, s.cfg.Data))
	}
	_, err := s.fs.Stat(s.path(fileRunning))
	if err == nil && s.cfg.Check != nil {
		start := time.Now()
		if err := s.cfg.Check(ctx, s.path(fileStore)); err != nil {
			return s.unusable(err)
		}
		s.cfg.Log.Info().Dur("took", time.Since(start)).Msg("was not stopped cleanly; the database is sound")
	}
	if s.db, err = store.Open(s.path(fileStore)); err != nil {
		return s.unusable(err)
	}
	// Only now: the lock on the database says that no other controller runs here.
	if err := s.fs.Remove(s.path(fileEndpoints)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return blob.WriteFile(s.fs, s.path(fileRunning), nil)
}

// unusable says what to do about a database that cannot be opened.
func (s *Server) unusable(err error) error {
	switch {
	case errors.Is(err, ErrInUse):
		return fmt.Errorf("%w; stop the other controller, or choose another --data", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; run as the user that owns %s, or choose another --data", err, s.cfg.Data)
	}
	return fmt.Errorf("the database cannot be read: %w; put a backup of %s in its place, or move it away and let all devices join again", err, s.path(fileStore))
}

// openRooms opens each room with those that it needs.
func (s *Server) openRooms() (err error) {
	if s.auth, err = auth.Open(s.db, auth.Config{Hosts: s.cfg.Hosts}); err != nil {
		return err
	}
	if s.blobs, err = blob.Open(s.path(dirBlobs), s.fs); err != nil {
		return err
	}
	s.broker, err = broker.New(broker.Config{
		Listen: s.cfg.MQTT, TLS: s.auth.ServerTLS(), Plain: s.cfg.Plain, Root: s.cfg.Root,
		Access: s.auth, Log: room(s.cfg.Log, "broker"),
	})
	if err != nil {
		return fmt.Errorf("%w; choose another address with --mqtt or --plain", err)
	}
	director, err := s.director()
	if err != nil {
		return err
	}
	s.reg, err = registry.Open(s.db, s.auth, s.broker, registry.Config{
		Root: s.cfg.Root, Blobs: s.blobs, Director: director, Log: room(s.cfg.Log, "registry"),
	})
	if err != nil {
		return err
	}
	if _, obeyed, err := s.reg.Director(); err != nil {
		return err
	} else if obeyed == registry.OtherDirects {
		s.cfg.Log.Error().Msg("boards obey the orders of another controller's key; name this one's: covey trust director, covey trust root rotate --director")
	}
	s.broker.Handle(s.reg.Handle)
	if s.rollout, err = rollout.Open(s.db, s.reg, room(s.cfg.Log, "rollout")); err != nil {
		return err
	}
	told, err := hooks(s.cfg.Webhooks)
	if err != nil {
		return err
	}
	if s.teller, err = webhook.New(s.db, s.rollout, told, room(s.cfg.Log, "webhook")); err != nil {
		return err
	}
	if err := s.reg.PublishAll(); err != nil {
		return err
	}
	if s.listen, err = net.Listen("tcp", s.cfg.Listen); err != nil {
		return fmt.Errorf("listen for the API on %s: %w; choose another address with --listen", s.cfg.Listen, err)
	}
	return nil
}

func room(log zerolog.Logger, name string) zerolog.Logger {
	return log.With().Str("room", name).Logger()
}

// announce writes the files that people and programs find the controller by. Its
// addresses are bound: whoever reads them may connect, and waits until Run.
func (s *Server) announce() error {
	host := s.cfg.Hosts[0]
	s.ends = Endpoints{
		API:   "https://" + at(host, s.listen.Addr()),
		MQTT:  "mqtts://" + at(host, s.broker.Addr()),
		CA:    s.path(fileCA),
		Token: s.path(fileToken),
		PID:   os.Getpid(),
	}
	if a := s.broker.PlainAddr(); a != nil {
		s.ends.Plain = "mqtt://" + at(host, a)
	}
	if err := blob.WriteFile(s.fs, s.path(fileCA), s.auth.CAPEM()); err != nil {
		return err
	}
	made, err := s.auth.Admin(func(token string) error {
		return blob.WriteFile(s.fs, s.path(fileToken), []byte(token+"\n"))
	})
	if err != nil {
		return fmt.Errorf("admin token: %w", err)
	}
	if made {
		s.cfg.Log.Info().Str("file", s.path(fileToken)).Msg("made the admin token; move the file to whoever is to have it")
	}
	b, err := json.MarshalIndent(s.ends, "", "  ")
	if err != nil {
		return err
	}
	return blob.WriteFile(s.fs, s.path(fileEndpoints), append(b, '\n'))
}

// Endpoints says where the server is to be found.
func (s *Server) Endpoints() Endpoints { return s.ends }

// Run serves until ctx ends, and returns when everything has stopped. It is
// called once.
func (s *Server) Run(ctx context.Context) error {
	s.cfg.Log.Info().Str("version", s.cfg.Version).Str("api", s.ends.API).Str("mqtt", s.ends.MQTT).
		Str("data", s.cfg.Data).Strs("hosts", s.cfg.Hosts).Msg("controller runs")
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.broker.Run(ctx) })
	g.Go(func() error { return s.reg.Run(ctx) })
	g.Go(func() error { return s.rollout.Run(ctx) })
	g.Go(func() error { return s.teller.Run(ctx) })
	g.Go(func() error { return s.serve(ctx) })
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	err = errors.Join(err, s.Close())
	s.cfg.Log.Info().Err(err).Msg("controller stopped")
	return err
}

// serve answers HTTPS until ctx ends.
func (s *Server) serve(ctx context.Context) error {
	srv := &http.Server{
		Handler:           s.api,
		TLSConfig:         s.auth.ServerTLS(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute, // uploads and streams set their own, and answers theirs
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          quiet(),
		BaseContext:       func(net.Listener) context.Context { return ctx }, // ends what streams
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := srv.ServeTLS(s.listen, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("api: %w", err)
		}
		return nil
	})
	<-ctx.Done()
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	if err := srv.Shutdown(limit); err != nil {
		srv.Close()
	}
	return g.Wait()
}

// Close frees what New has opened. Run does it at its end.
func (s *Server) Close() (err error) {
	if s.listen != nil {
		s.listen.Close() // closed already after Run
	}
	if s.broker != nil {
		s.broker.Close()
	}
	if s.db == nil {
		return nil
	}
	err = s.db.Close()
	for _, name := range []string{fileEndpoints, fileRunning} {
		if e := s.fs.Remove(s.path(name)); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// CheckStore examines a database that no controller uses. It may be ended by a
// signal, or never end, when the file is damaged.
func CheckStore(path string) error { return store.Check(path) }
