// Package api is the controller's REST API: what people and programs may ask of
// it over HTTPS, and what they are told when it goes wrong. Operations are
// written once, in code, and the OpenAPI document is made of them. The package
// decides nothing about devices; it asks the rooms that do.
package api

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/fleet/blob"
	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/rollout"
	"github.com/covey-edge/covey/fleet/wire"
)

// Config of an API. All fields are needed but the last two.
type Config struct {
	Version string // of the controller
	URL     string // of this API, as others reach it: https://host:port
	MQTT    string // of the broker, as others reach it: mqtts://host:port
	Root    string // of the topic tree

	Auth      *auth.Authority
	Registry  *registry.Registry
	Rollouts  *rollout.Service
	Catalogue *rollout.Catalogue
	Blobs     *blob.Store
	// KickHome ends the connections of a home's MQTT user.
	KickHome func(user string)
	// Metrics is what /metrics shows; the API adds its own to it.
	Metrics *prometheus.Registry
	Log     zerolog.Logger

	// Ready says why the controller is not ready; nil: it always is.
	Ready func() error
}

// An API is an http.Handler for all paths. Streams last until the request's
// context ends, so a server that is to shut down ends its base context first.
type API struct {
	cfg     Config
	mux     *http.ServeMux
	huma    huma.API
	openapi []byte
	enrol   limiter
	uploads locks
	streams chan struct{} // holds one for each that is open
	seen    *prometheus.HistogramVec
}

// New makes the API.
func New(cfg Config) (*API, error) {
	a := &API{cfg: cfg, mux: http.NewServeMux(), streams: make(chan struct{}, maxStreams)}
	hc := huma.DefaultConfig("Covey controller", cfg.Version)
	hc.Info.Description = "Devices, releases and rollouts of a fleet. Errors are application/problem+json with a code that does not change."
	hc.OpenAPIPath, hc.DocsPath, hc.SchemasPath = "", "", "" // served here, behind the token
	hc.CreateHooks = nil
	hc.Transformers = []huma.Transformer{problemOfHuma}
	hc.RejectUnknownQueryParameters = true
	hc.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	hc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"bearer": {Type: "http", Scheme: "bearer"}}
	hc.Servers = []*huma.Server{{URL: cfg.URL}}
	a.huma = humago.New(a.mux, hc)

	a.system()
	a.devices()
	a.groups()
	a.people()
	a.releases()
	a.blobs()
	a.trust()
	a.rollouts()
	a.watches()
	// What huma would have answered with; everything is a Problem here.
	delete(a.huma.OpenAPI().Components.Schemas.Map(), "ErrorModel")
	delete(a.huma.OpenAPI().Components.Schemas.Map(), "ErrorDetail")
	var err error
	if a.openapi, err = a.huma.OpenAPI().MarshalJSON(); err != nil {
		return nil, err
	}
	return a, a.metrics()
}

// schemaName tells the messages of devices, and what a policy is made of, from the
// API's own types.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	name := huma.DefaultSchemaNamer(t, hint)
	if t.PkgPath() == reflect.TypeFor[wire.Hello]().PkgPath() {
		name = "Wire" + name
	}
	if how := reflect.TypeFor[policy.Policy](); t.PkgPath() == how.PkgPath() && t != how {
		name = "Policy" + name
	}
	return name
}

// Types that are embedded in an operation's input are exported, because huma
// does not look into others.

// access is how an operation is let in.
type access struct {
	role auth.Role
	open bool // the operation checks by itself, or needs not
}

var (
	viewer   = access{role: auth.RoleViewer}
	operator = access{role: auth.RoleOperator}
	admin    = access{role: auth.RoleAdmin}
	open     = access{open: true}
)

// add registers an operation. The access it says is enforced before its input
// is read.
func add[I, O any](a *API, op huma.Operation, acc access, fn func(context.Context, *I) (*O, error)) {
	huma.Register(a.huma, a.prepare(op, acc), func(ctx context.Context, in *I) (*O, error) {
		out, err := fn(ctx, in)
		if err != nil {
			return nil, a.problem(op.OperationID, err)
		}
		return out, nil
	})
}

func (a *API) prepare(op huma.Operation, acc access) huma.Operation {
	op.Responses = map[string]*huma.Response{"default": {
		Description: "What went wrong",
		Content: map[string]*huma.MediaType{"application/problem+json": {
			Schema: a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[v1.Problem](), true, ""),
		}},
	}}
	if op.MaxBodyBytes == 0 {
		op.MaxBodyBytes = v1.MaxBody
	}
	if !acc.open {
		op.Security = []map[string][]string{{"bearer": {}}}
		op.Middlewares = append(op.Middlewares, func(ctx huma.Context, next func(huma.Context)) {
			if p := principal(ctx.Context()); !p.Role.Covers(acc.role) {
				a.writeHuma(ctx, forbidden(p, acc.role))
				return
			}
			next(ctx)
		})
	}
	return op
}

// openPaths are all calls that need no bearer token, but for isBlob's. Enrol checks a
// join token instead, renew and those a device's certificate.
var openPaths = map[string]bool{
	"GET /healthz": true, "HEAD /healthz": true, "GET /readyz": true, "HEAD /readyz": true, "POST /v1/enrol": true, "POST /v1/renew": true,
}

type visitorKey struct{}

// A visitor is who makes a request, and the token that was shown.
type visitor struct {
	auth.Principal
	token string
}

// principal is who makes the request: nobody on an open path.
func principal(ctx context.Context) auth.Principal {
	v, _ := ctx.Value(visitorKey{}).(visitor)
	return v.Principal
}

// welcome says whether the token that a stream began with is still good.
func (a *API) welcome(ctx context.Context) error {
	v, _ := ctx.Value(visitorKey{}).(visitor)
	_, err := a.cfg.Auth.Bearer(v.token)
	return err
}

// ServeHTTP lets in who has a token, and nobody else but on the open paths: an
// operation that forgets to say its access is closed, not open.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	sw := newStatusWriter(w)
	defer func() {
		if v := recover(); v != nil {
			a.cfg.Log.Error().Interface("panic", v).Str("method", r.Method).Str("path", r.URL.Path).Msg("request failed")
			if v == http.ErrAbortHandler || sw.status != 0 {
				panic(http.ErrAbortHandler) // too late to say anything: cut the connection
			}
			write(sw, internal())
		}
		a.observe(r, sw.status, time.Since(start))
	}()
	sw.Header().Set("X-Content-Type-Options", "nosniff")
	sw.Header().Set("Cache-Control", "no-store")
	if !openPaths[r.Method+" "+r.URL.Path] && !isBlob(r) {
		v, err := a.bearer(r)
		if err != nil {
			sw.Header().Set("WWW-Authenticate", `Bearer realm="covey"`)
			write(sw, a.problem("bearer", err))
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), visitorKey{}, v))
	}
	if strings.HasPrefix(r.URL.Path, "/v1/watch/") {
		select {
		case a.streams <- struct{}{}:
			defer func() { <-a.streams }()
		default:
			write(sw, problem(http.StatusTooManyRequests, v1.CodeTooMany, "end some, then try again", "%d streams are open already", maxStreams))
			return
		}
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // or HTTP/1 ends the stream with it
		a.mux.ServeHTTP(stream{sw}, r)
		return
	}
	a.mux.ServeHTTP(sw, r)
}

func (a *API) bearer(r *http.Request) (v visitor, err error) {
	token, ok := bearerOf(r.Header.Get("Authorization"))
	if !ok {
		return v, unauthorized("the request has no bearer token")
	}
	v.token = token
	v.Principal, err = a.cfg.Auth.Bearer(token)
	if errors.Is(err, auth.ErrDenied) {
		err = unauthorized("the bearer token is not known here")
	}
	return v, err
}

func bearerOf(header string) (token string, ok bool) {
	scheme, token, ok := strings.Cut(header, " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "bearer") && strings.TrimSpace(token) != ""
}

// answerLimit is how long a client may take to read an answer, from its first
// byte on. Streams have limits of their own.
const answerLimit = time.Minute

// A statusWriter remembers the status, and gives an answer its time.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// newStatusWriter takes away the limit of the answer before on this connection. A
// request may take long (an upload); the answer's time begins when it does.
func newStatusWriter(w http.ResponseWriter) *statusWriter {
	sw := &statusWriter{ResponseWriter: w}
	sw.limit(time.Time{})
	return sw
}

// limit sets the time by which all must be written. Not every writer has one; then
// the server's own counts.
func (w *statusWriter) limit(t time.Time) {
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(t)
}

func (w *statusWriter) begin(status int) {
	if w.status == 0 {
		w.status = status
		w.limit(time.Now().Add(answerLimit))
	}
}

func (w *statusWriter) WriteHeader(status int) {
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
