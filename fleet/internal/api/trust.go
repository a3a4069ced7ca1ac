package api

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/internal/rollout"
	"github.com/covey-edge/covey/fleet/trust"
)

// trust registers what people have signed. The controller hands it on and cannot
// change it.
func (a *API) trust() {
	tags := []string{"trust"}
	add(a, huma.Operation{OperationID: "show-trust", Method: http.MethodGet, Path: "/v1/trust", Summary: "Who may sign releases, and until when", Tags: tags}, viewer, a.showTrust)
	add(a, huma.Operation{OperationID: "show-director", Method: http.MethodGet, Path: "/v1/trust/director", Summary: "The key that signs what is wanted of devices", Tags: tags}, viewer, a.showDirector)
	add(a, huma.Operation{OperationID: "push-trust", Method: http.MethodPut, Path: "/v1/trust", Summary: "Send what people have signed", Tags: tags, MaxBodyBytes: 2 * trust.MaxBundle,
		RequestBody: &huma.RequestBody{Required: true, Description: "A bundle of signed metadata", Content: map[string]*huma.MediaType{
			"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		}}}, operator, a.pushTrust)
}

func (a *API) showDirector(context.Context, *empty) (*body[v1.Director], error) {
	key, obeyed, err := a.cfg.Registry.Director()
	if err != nil {
		return nil, err
	}
	return ok(v1.Director{ID: trust.KeyID(key), Public: hex.EncodeToString(key), Obeyed: obeyed})
}

func (a *API) showTrust(context.Context, *empty) (*body[v1.Trust], error) {
	set, _, err := a.cfg.Registry.Trust()
	if err != nil {
		return nil, err
	}
	return ok(trustOf(set))
}

func trustOf(s trust.Set) v1.Trust {
	out := v1.Trust{Root: string(s.First)}
	for _, e := range s.Expiries() {
		out.Expires = append(out.Expires, v1.Expiry{File: e.File, At: e.At})
	}
	return out
}

// trustWarnings say what boards that ask for signatures will make of a release.
func (a *API) trustWarnings(e rollout.Entry, now time.Time) ([]string, error) {
	set, _, err := a.cfg.Registry.Trust()
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil // nobody signs
	}
	if err != nil {
		return nil, err
	}
	t, err := set.Find(trust.TargetName(e.Name, e.Version), now)
	if p, perr := set.FindPilot(e.Name, e.Version, now); err != nil && perr == nil && p.SHA256 == string(e.Digest) {
		return []string{"it is signed for the pilot channel alone: other boards that ask for signatures refuse it"}, nil
	}
	switch {
	case err != nil:
		return []string{fmt.Sprintf("boards that ask for signatures refuse it: %v", err)}, nil
	case t.SHA256 != string(e.Digest):
		return []string{fmt.Sprintf("boards that ask for signatures refuse it: by that name another release was signed, %.12s", t.SHA256)}, nil
	}
	if first := set.Until(t.Role); first.At.Sub(now) < trust.Soon {
		return []string{fmt.Sprintf("from %s on no board installs it any more: %s expires; sign it anew, `covey trust sign`, and push it", first.At.Format(time.DateOnly), first.File)}, nil
	}
	return nil, nil
}

func (a *API) pushTrust(ctx context.Context, in *Upload) (*body[v1.Trust], error) {
	b, err := io.ReadAll(io.LimitReader(in.body, trust.MaxBundle+1))
	if err != nil {
		return nil, err
	}
	if _, _, err := a.cfg.Registry.Trust(); errors.Is(err, registry.ErrNotFound) && principal(ctx).Role != auth.RoleAdmin {
		return nil, forbidden(principal(ctx), auth.RoleAdmin) // the first says for good whose root counts
	}
	set, err := a.cfg.Registry.TakeTrust(ctx, b)
	if err != nil {
		return nil, err
	}
	a.cfg.Log.Info().Str("root", string(set.First)).Time("expires", set.Expiries()[0].At).Msg("signed releases taken in")
	return ok(trustOf(set))
}
