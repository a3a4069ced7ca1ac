package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	"github.com/covey-edge/covey/hal"
)

// A Problem is every error of the API, application/problem+json (RFC 9457), as the
// controller's are.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"` // the HTTP status in words
	Status int    `json:"status"`
	Code   string `json:"code"`          // for programs; does not change
	Detail string `json:"detail"`        // what happened and why, one line
	Fix    string `json:"fix,omitempty"` // what to do about it, one line
}

// Codes of problems. Those of the board (hal/errors.go) come up too.
const (
	codeUnauthorized = "E_UNAUTHORIZED" // 401
	codeForbidden    = "E_FORBIDDEN"    // 403, 421
	codeNotFound     = "E_NOT_FOUND"    // 404
	codeConflict     = "E_CONFLICT"     // 409: cannot be changed here
	codeTooLarge     = "E_TOO_LARGE"    // 413
	codeInvalid      = "E_INVALID"      // 400, 415, 422
	codeTooMany      = "E_TOO_MANY"     // 429
	codeInternal     = "E_INTERNAL"     // 500
)

// Error is the problem in one line.
func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

func (p *Problem) fixed(fix string) *Problem {
	p.Fix = fix
	return p
}

func problem(status int, code, format string, args ...any) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: fmt.Sprintf(format, args...)}
}

// problemOf is what the caller is told of an error; nil: it is none of his.
func problemOf(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	text := err.Error()
	if e, ok := errors.AsType[*hal.Error](err); ok {
		text = e.Text
	}
	var p *Problem
	switch {
	case errors.Is(err, ErrNotFound):
		p = problem(http.StatusNotFound, codeNotFound, "%s", text)
	case errors.Is(err, ErrLocked):
		p = problem(http.StatusConflict, codeConflict, "%s", text)
	case errors.Is(err, ErrPrivate):
		p = problem(http.StatusForbidden, codeForbidden, "%s", text)
	case hal.CodeOf(err) != "":
		p = problem(http.StatusInternalServerError, codeInternal, "%s", text)
	default:
		return nil
	}
	if code := hal.CodeOf(err); code != "" {
		p.Code = string(code)
	}
	return p
}

// refuse answers with a problem. What has no words for the caller goes to the log.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	if p == nil {
		s.cfg.Log.Error().Err(err).Str("method", r.Method).Str("path", r.URL.Path).Msg("request failed")
		p = problem(http.StatusInternalServerError, codeInternal, "something went wrong on the board").fixed("the agent's log says what")
	}
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="covey"`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // who has gone hears nothing
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n')) // who has gone hears nothing
	return nil
}

// maxBody holds all zones and masks with all their points.
const maxBody = 128 << 10

// decode reads the request's one JSON value, and nothing that out does not know.
func decode(r *http.Request, out any) error {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return problem(http.StatusUnsupportedMediaType, codeInvalid, "the request is not said to be JSON").fixed("send `Content-Type: application/json`")
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(out)
	if err == nil {
		if _, err = d.Token(); err == io.EOF {
			return nil
		}
		err = errors.New("something stands behind the end")
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem(http.StatusRequestEntityTooLarge, codeTooLarge, "the request has more than %d KiB", maxBody>>10)
	}
	return problem(http.StatusBadRequest, codeInvalid, "the request's JSON cannot be read: %v", err)
}

// decodeValue reads {"value": …}; nil is null.
func decodeValue(r *http.Request) (any, error) {
	var in struct {
		Value json.RawMessage `json:"value"`
	}
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if len(in.Value) == 0 {
		return nil, problem(http.StatusUnprocessableEntity, codeInvalid, "the request has no value; null takes back what was set here")
	}
	var value any
	if err := json.Unmarshal(in.Value, &value); err != nil {
		return nil, problem(http.StatusBadRequest, codeInvalid, "the value cannot be read: %v", err)
	}
	return value, nil
}
