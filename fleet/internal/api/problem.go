package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/group"
	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/rollout"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/hal"
)

// problem makes one of a status, a code, what happened and what to do.
func problem(status int, code, fix, format string, args ...any) *v1.Problem {
	return &v1.Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code,
		Detail: fmt.Sprintf(format, args...), Fix: fix,
	}
}

func unauthorized(detail string) *v1.Problem {
	return problem(http.StatusUnauthorized, v1.CodeUnauthorized, "log in with `covey login`, or send a bearer token", "%s", detail)
}

func forbidden(p auth.Principal, need auth.Role) *v1.Problem {
	return problem(http.StatusForbidden, v1.CodeForbidden, fmt.Sprintf("use a token with the role %s", need),
		"%s has the role %s, this needs %s", p.Name, p.Role, need)
}

func notFound(fix, format string, args ...any) *v1.Problem {
	return problem(http.StatusNotFound, v1.CodeNotFound, fix, format, args...)
}

func invalid(format string, args ...any) *v1.Problem {
	return problem(http.StatusUnprocessableEntity, v1.CodeInvalid, "", format, args...)
}

func internal() *v1.Problem {
	return problem(http.StatusInternalServerError, v1.CodeInternal, "see the controller's log", "the controller could not do this")
}

// problem says what an error means for a client. What is not known here is
// logged, and the client learns only that it happened.
func (a *API) problem(op string, err error) *v1.Problem {
	var p *v1.Problem
	var coded *hal.Error
	var large *http.MaxBytesError
	var query *group.Error
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &query):
		return wrongQuery(query)
	case errors.Is(err, registry.ErrNoGroup):
		return notFound("see `covey group list`", "%s", err)
	case errors.Is(err, registry.ErrUsed):
		return problem(http.StatusConflict, v1.CodeConflict, "change or delete that one first", "%s", err)
	case errors.Is(err, registry.ErrNotFound):
		return notFound("see `covey device list`", "%s", err)
	case errors.Is(err, rollout.ErrNotFound):
		return notFound("see `covey rollout list`", "%s", err)
	case errors.Is(err, rollout.ErrNoRelease):
		return notFound("see `covey release list`", "%s", err)
	case errors.Is(err, rollout.ErrTaken):
		return problem(http.StatusConflict, v1.CodeConflict, "push it under another version: `--version`", "%s", err)
	case errors.Is(err, rollout.ErrRole):
		return problem(http.StatusForbidden, v1.CodeForbidden, "let somebody approve who may: `covey token list`", "%s", err)
	case errors.Is(err, policy.ErrInvalid):
		return problem(http.StatusUnprocessableEntity, v1.CodeInvalid, "see `covey rollout start --help` for what a policy says", "%s", err)
	case errors.Is(err, rollout.ErrOver), errors.Is(err, rollout.ErrState):
		return problem(http.StatusConflict, v1.CodeConflict, "see `covey rollout show`", "%s", err)
	case errors.Is(err, auth.ErrDenied):
		return problem(http.StatusUnauthorized, v1.CodeUnauthorized, "", "%s", err)
	case errors.Is(err, auth.ErrExists):
		return problem(http.StatusConflict, v1.CodeConflict, "", "%s", err)
	case errors.Is(err, auth.ErrLast):
		return problem(http.StatusConflict, v1.CodeConflict, "make another admin first: `covey token add <name> --role admin`", "%s", err)
	case errors.Is(err, auth.ErrInvalid), errors.Is(err, registry.ErrInvalid):
		return invalid("%s", err)
	case errors.Is(err, store.ErrNotFound):
		return notFound("", "%s", err)
	case errors.As(err, &large):
		return problem(http.StatusRequestEntityTooLarge, v1.CodeTooLarge, "", "the request is longer than %d bytes", large.Limit)
	case errors.As(err, &coded) && ofDisk(coded.Code):
		a.cfg.Log.Error().Err(err).Str("operation", op).Msg("the disk refuses")
		return problem(http.StatusInsufficientStorage, string(coded.Code), "see to the disk of the controller, then try again", "%s", coded.Text)
	case errors.As(err, &coded) && coded.Code != hal.CodeHashAtRest:
		return problem(http.StatusUnprocessableEntity, string(coded.Code), "", "%s", coded.Text)
	}
	a.cfg.Log.Error().Err(err).Str("operation", op).Msg("request failed")
	return internal()
}

// ofDisk says whether the controller's disk is to blame, and not the request.
func ofDisk(c hal.Code) bool {
	return c == hal.CodeDiskFull || c == hal.CodeDiskRO || c == hal.CodeDiskIO
}

// problemOfHuma makes our problem of what huma says about a malformed request.
func problemOfHuma(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	code := v1.CodeInvalid
	switch {
	case m.Status == http.StatusRequestEntityTooLarge:
		code = v1.CodeTooLarge
	case m.Status >= 500:
		return internal(), nil // its text may hold anything
	}
	p := problem(m.Status, code, "see /openapi.json for what is expected", "%s", m.Detail)
	for _, e := range m.Errors {
		p.Errors = append(p.Errors, v1.Detail{Where: e.Location, What: e.Message})
	}
	if len(p.Errors) > 0 {
		p.Detail += ": " + p.Errors[0].Where + ": " + p.Errors[0].What
	}
	return p, nil
}

func write(w http.ResponseWriter, p *v1.Problem) {
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	// A client that went away is none of our business.
	_ = json.NewEncoder(w).Encode(p)
}

func (a *API) writeHuma(ctx huma.Context, p *v1.Problem) {
	ctx.SetHeader("Content-Type", p.ContentType(""))
	ctx.SetStatus(p.Status)
	_ = json.NewEncoder(ctx.BodyWriter()).Encode(p)
}
