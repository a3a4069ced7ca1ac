package api_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/trust"
)

// Whose root counts an administrator says, once; what is signed under it anybody may
// bring who may change devices. It is told to whoever asks, and what boards will make
// of a release is said before it goes out.
func TestTrust(t *testing.T) {
	f, admin := start(t)
	as := func(role auth.Role) client {
		token, err := f.Auth.AddToken("t-"+string(role), role)
		if err != nil {
			t.Fatal(err)
		}
		return client{t, f, token}
	}
	operator, viewer := as(auth.RoleOperator), as(auth.RoleViewer)
	admin.push("m", "1.0.0", 1000)
	f.Join(t, "pi-1", nil, "cam")
	k, err := trust.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	q := trust.Quorum{Keys: []ed25519.PublicKey{k.Public()}, Threshold: 1}
	repo, err := trust.Create(trust.Setup{Root: q, Releases: q, Publish: q}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	bundle := func() []byte {
		if _, err := repo.Sign(context.Background(), k, time.Now()); err != nil {
			t.Fatal(err)
		}
		b, err := repo.Bundle()
		if err != nil {
			t.Fatal(err)
		}
		return b.Encode()
	}
	warnings := func() string {
		var p v1.Plan
		viewer.call("POST", "/v1/plan", v1.Set{Query: "pi-1", Pipeline: "cam", Release: "m@1.0.0"}, http.StatusOK, &p)
		return strings.Join(p.Warnings, "; ")
	}

	viewer.refused("GET", "/v1/trust", nil, http.StatusNotFound, v1.CodeNotFound)
	if w := warnings(); w != "" {
		t.Errorf("nobody signs: %s", w)
	}
	first := bundle()
	operator.refused("PUT", "/v1/trust", first, http.StatusForbidden, v1.CodeForbidden)
	admin.refused("PUT", "/v1/trust", []byte("<html>"), http.StatusUnprocessableEntity, "E_JSON")
	var got v1.Trust
	admin.call("PUT", "/v1/trust", first, http.StatusOK, &got)
	if got.Root != string(repo.FirstFingerprint()) || len(got.Expires) != 4 {
		t.Errorf("%+v", got)
	}
	if w := warnings(); !strings.Contains(w, "E_SIGNATURE: m/1.0.0") {
		t.Errorf("not signed: %q", w)
	}

	var info v1.ReleaseDetail
	viewer.call("GET", "/v1/releases/m@1.0.0", nil, http.StatusOK, &info)
	manifest, err := f.Blobs.Read(info.Digest, release.MaxManifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.Allow(trust.Target{Name: "m/1.0.0", Length: int64(len(manifest)), SHA256: string(info.Digest)}, time.Now()); err != nil {
		t.Fatal(err)
	}
	viewer.refused("PUT", "/v1/trust", first, http.StatusForbidden, v1.CodeForbidden)
	operator.call("PUT", "/v1/trust", bundle(), http.StatusOK, &got)
	operator.refused("PUT", "/v1/trust", first, http.StatusUnprocessableEntity, "E_ROLLBACK")
	if w := warnings(); w != "" {
		t.Errorf("signed: %s", w)
	}
	var d v1.Director
	viewer.call("GET", "/v1/trust/director", nil, http.StatusOK, &d)
	if d.Obeyed != "nobody" || len(d.ID) != 64 || len(d.Public) != 64 {
		t.Errorf("director %+v", d)
	}
	if err := repo.Rotate(trust.Setup{Root: q, Releases: q, Publish: q, Director: k.Public()}, time.Now()); err != nil {
		t.Fatal(err)
	}
	operator.refused("PUT", "/v1/trust", bundle(), http.StatusUnprocessableEntity, v1.CodeInvalid)
	_, text := admin.send("GET", "/metrics", nil)
	if line := fmt.Sprintf("covey_trust_expires_timestamp_seconds %g\n", float64(got.Expires[0].At.Unix())); !strings.Contains(string(text), line) {
		t.Errorf("metrics have no %s", line)
	}
}
