package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/wire"
)

// people registers how people, devices and houses get in: bearer tokens, join
// tokens, enrolment, MQTT users.
func (a *API) people() {
	tokens, homes, joins := []string{"tokens"}, []string{"homes"}, []string{"enrolment"}
	add(a, huma.Operation{OperationID: "create-token", Method: http.MethodPost, Path: "/v1/tokens", Summary: "Make a join token", DefaultStatus: http.StatusCreated, Tags: tokens}, operator, a.createToken)
	add(a, huma.Operation{OperationID: "list-tokens", Method: http.MethodGet, Path: "/v1/tokens", Summary: "Join tokens that can still be used", Tags: tokens}, operator, a.listTokens)
	add(a, huma.Operation{OperationID: "delete-token", Method: http.MethodDelete, Path: "/v1/tokens/{id}", Summary: "End a join token", Tags: tokens}, operator,
		func(_ context.Context, in *struct {
			ID string `path:"id" maxLength:"64"`
		}) (*empty, error) {
			return &empty{}, a.cfg.Auth.RemoveJoin(in.ID)
		})

	add(a, huma.Operation{OperationID: "enrol", Method: http.MethodPost, Path: "/v1/enrol", Summary: "Join as a device; the bearer is a join token's secret", DefaultStatus: http.StatusCreated, Tags: joins}, open, a.enrolDevice)
	add(a, huma.Operation{OperationID: "renew", Method: http.MethodPost, Path: "/v1/renew", Summary: "Get a new certificate; the current one is the proof", DefaultStatus: http.StatusCreated, Tags: joins}, open, a.renew)

	people := []string{"people"}
	add(a, huma.Operation{OperationID: "add-person", Method: http.MethodPost, Path: "/v1/people", Summary: "Make a bearer token for a person or a program", DefaultStatus: http.StatusCreated, Tags: people}, admin, a.addPerson)
	add(a, huma.Operation{OperationID: "list-people", Method: http.MethodGet, Path: "/v1/people", Summary: "Who has a bearer token", Tags: people}, admin, a.listPeople)
	add(a, huma.Operation{OperationID: "remove-person", Method: http.MethodDelete, Path: "/v1/people/{name}", Summary: "End a bearer token", Tags: people}, admin,
		func(ctx context.Context, in *struct {
			Name string `path:"name" pattern:"^[a-z0-9-]{1,32}$"`
		}) (*empty, error) {
			if err := a.cfg.Auth.RemoveToken(in.Name); err != nil {
				return nil, err
			}
			a.cfg.Log.Info().Str("name", in.Name).Str("by", principal(ctx).Name).Msg("token removed")
			return &empty{}, nil
		})

	add(a, huma.Operation{OperationID: "add-home", Method: http.MethodPost, Path: "/v1/homes", Summary: "Make an MQTT user for a house", DefaultStatus: http.StatusCreated, Tags: homes}, admin, a.addHome)
	add(a, huma.Operation{OperationID: "list-homes", Method: http.MethodGet, Path: "/v1/homes", Summary: "MQTT users of houses", Tags: homes}, admin, a.listHomes)
	add(a, huma.Operation{OperationID: "remove-home", Method: http.MethodDelete, Path: "/v1/homes/{user}", Summary: "End an MQTT user and its connections", Tags: homes}, admin,
		func(_ context.Context, in *struct {
			User string `path:"user" pattern:"^[a-z0-9-]{1,32}$"`
		}) (*empty, error) {
			if err := a.cfg.Auth.RemoveHome(in.User); err != nil {
				return nil, err
			}
			a.cfg.KickHome(in.User)
			return &empty{}, nil
		})
}

func (a *API) createToken(_ context.Context, in *struct{ Body v1.TokenRequest }) (*body[v1.Token], error) {
	if err := registry.ValidLabels(in.Body.Labels); err != nil {
		return nil, err
	}
	if in.Body.TTLSeconds > int64(auth.MaxJoinLife/time.Second) {
		return nil, invalid("a join token lives at most %s", auth.MaxJoinLife)
	}
	t, secret, err := a.cfg.Auth.AddJoin(time.Duration(in.Body.TTLSeconds)*time.Second, in.Body.Uses, in.Body.Labels)
	if err != nil {
		return nil, err
	}
	out := tokenOf(t)
	out.Token = wire.JoinToken{URL: a.cfg.URL, CA: a.cfg.Auth.CAHash(), Secret: secret}.Encode()
	return ok(out)
}

func tokenOf(t auth.JoinToken) v1.Token {
	return v1.Token{ID: t.ID, Created: t.Created, Expires: t.Expires, Uses: t.Uses, Used: t.Used, Labels: t.Labels}
}

func (a *API) listTokens(context.Context, *empty) (*body[v1.Tokens], error) {
	list, err := a.cfg.Auth.JoinTokens()
	if err != nil {
		return nil, err
	}
	out := v1.Tokens{Tokens: []v1.Token{}}
	for _, t := range list {
		out.Tokens = append(out.Tokens, tokenOf(t))
	}
	return ok(out)
}

// A csr is the body of enrol and renew. Extra keys are allowed: agents of other
// versions send this.
type csr struct {
	_   struct{}      `json:"-" additionalProperties:"true"`
	ID  wire.DeviceID `json:"id,omitempty" maxLength:"32" doc:"Wanted; empty: the controller chooses"`
	CSR string        `json:"csr" maxLength:"8192" doc:"PEM"`
}

// A Caller is the connection that a request came on.
type Caller struct {
	addr   string
	bearer string
	ctx    huma.Context
}

// Resolve is called by huma before the operation.
func (c *Caller) Resolve(ctx huma.Context) []error {
	host, _, err := net.SplitHostPort(ctx.RemoteAddr())
	if err != nil {
		host = ctx.RemoteAddr()
	}
	c.addr, c.ctx = host, ctx
	c.bearer, _ = bearerOf(ctx.Header("Authorization"))
	return nil
}

func (a *API) enrolDevice(_ context.Context, in *struct {
	Caller
	Body csr
}) (*body[wire.EnrolResponse], error) {
	now := time.Now()
	if w := a.enrol.wait(in.addr, now); w > 0 {
		a.cfg.Log.Warn().Str("address", in.addr).Msg("too many wrong join tokens")
		in.ctx.SetHeader("Retry-After", strconv.Itoa(int(w/time.Second)+1))
		return nil, problem(http.StatusTooManyRequests, v1.CodeTooMany, "wait a minute, then try with a new token from `covey device token`", "too many wrong join tokens from %s", in.addr)
	}
	e, err := a.cfg.Registry.Enrol(in.bearer, in.Body.CSR, in.Body.ID)
	if err != nil {
		if errors.Is(err, auth.ErrDenied) {
			a.enrol.wrong(in.addr, now)
		}
		a.cfg.Log.Warn().Err(err).Str("address", in.addr).Str("device", string(in.Body.ID)).Msg("enrolment refused")
		return nil, err
	}
	r := a.enrolled(e)
	set, _, err := a.cfg.Registry.Trust()
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return nil, err
	}
	r.TrustRoot = string(set.First)
	return ok(r)
}

func (a *API) enrolled(e registry.Enrolment) wire.EnrolResponse {
	return wire.EnrolResponse{ID: e.ID, Cert: string(e.Cert.PEM), CA: string(a.cfg.Auth.CAPEM()), MQTT: a.cfg.MQTT, Root: a.cfg.Root}
}

func (a *API) renew(_ context.Context, in *struct {
	Caller
	Body csr
}) (*body[wire.EnrolResponse], error) {
	id, err := a.deviceOn(in.ctx.TLS())
	if err != nil {
		return nil, err
	}
	e, err := a.cfg.Registry.Renew(id, in.Body.CSR)
	if err != nil {
		return nil, err
	}
	return ok(a.enrolled(e))
}

func (a *API) addHome(_ context.Context, in *struct {
	Body struct {
		User string `json:"user" pattern:"^[a-z0-9-]{1,32}$"`
	}
}) (*body[v1.Home], error) {
	password, err := a.cfg.Auth.AddHome(in.Body.User)
	if err != nil {
		return nil, err
	}
	return ok(v1.Home{User: in.Body.User, Password: password, Created: time.Now().UTC(), MQTT: a.cfg.MQTT})
}

func (a *API) listHomes(context.Context, *empty) (*body[v1.Homes], error) {
	list, err := a.cfg.Auth.Homes()
	if err != nil {
		return nil, err
	}
	out := v1.Homes{Homes: []v1.Home{}}
	for _, h := range list {
		out.Homes = append(out.Homes, v1.Home{User: h.User, Created: h.Created})
	}
	return ok(out)
}

func (a *API) addPerson(ctx context.Context, in *struct{ Body v1.PersonRequest }) (*body[v1.Person], error) {
	token, err := a.cfg.Auth.AddToken(in.Body.Name, auth.Role(in.Body.Role))
	if err != nil {
		return nil, err
	}
	a.cfg.Log.Info().Str("name", in.Body.Name).Str("role", in.Body.Role).Str("by", principal(ctx).Name).Msg("token made")
	return ok(v1.Person{Name: in.Body.Name, Role: in.Body.Role, Token: token, Created: time.Now().UTC()})
}

func (a *API) listPeople(context.Context, *empty) (*body[v1.People], error) {
	list, err := a.cfg.Auth.Tokens()
	if err != nil {
		return nil, err
	}
	out := v1.People{People: []v1.Person{}}
	for _, p := range list {
		out.People = append(out.People, v1.Person{Name: p.Name, Role: string(p.Role), Created: p.Created})
	}
	return ok(out)
}
