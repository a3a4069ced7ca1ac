package local

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

const (
	viewTime = 10 * time.Second // that a watcher may take for one view
	quiet    = 15 * time.Second // after which a stream says that it lives
)

// preview is a stream of views as server-sent events. A browser knows by itself how
// to begin again.
func (s *Server) preview(w http.ResponseWriter, r *http.Request) error {
	return s.watch(w, r, "text/event-stream", func(v *View) error {
		if v == nil {
			_, err := w.Write([]byte(":\n\n"))
			return err
		}
		if v.Items == nil {
			v.Items = []Item{}
		}
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "data: %s\n\n", b)
		return err
	})
}

const boundary = "covey-picture"

// mjpeg is a stream of pictures alone, for programs that know cameras.
func (s *Server) mjpeg(w http.ResponseWriter, r *http.Request) error {
	for _, p := range s.cfg.Board.Status().Pipelines {
		if p.Name == r.PathValue("pipeline") && !p.Privacy.Pictures {
			return problem(http.StatusForbidden, codeForbidden, "pictures of this pipeline stay on the board: %s", p.Privacy.Text)
		}
	}
	return s.watch(w, r, "multipart/x-mixed-replace; boundary="+boundary, func(v *View) error {
		if v == nil || v.JPEG == nil {
			return nil
		}
		if _, err := fmt.Fprintf(w, "--%s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n", boundary, len(v.JPEG)); err != nil {
			return err
		}
		_, err := w.Write(append(v.JPEG[:len(v.JPEG):len(v.JPEG)], "\r\n"...))
		return err
	})
}

// watch sends views until one of both ends has enough, or who watches has logged out;
// nil is sent when there was none for a while.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, kind string, send func(*View) error) error {
	select {
	case s.previews <- struct{}{}:
		defer func() { <-s.previews }()
	default:
		return problem(http.StatusTooManyRequests, codeTooMany, "%d previews are open already", maxPreviews).fixed("close some pages, then try again")
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	views, err := s.cfg.Board.Preview(ctx, r.PathValue("pipeline"))
	if err != nil {
		return err
	}
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Accel-Buffering", "no") // a proxy is not to wait for more
	idle := time.NewTimer(quiet)
	defer idle.Stop()
	for first := true; ; first = false {
		_ = out.SetWriteDeadline(time.Now().Add(viewTime))
		if first {
			w.WriteHeader(http.StatusOK)
		}
		if out.Flush() != nil {
			return nil
		}
		var view *View
		select {
		case v, more := <-views:
			if !more {
				return nil
			}
			view = &v
		case <-idle.C:
		case <-ctx.Done():
			return nil
		}
		idle.Reset(quiet)
		_ = out.SetWriteDeadline(time.Now().Add(viewTime))
		if s.admit(r) != nil || send(view) != nil {
			return nil // who watched has gone
		}
	}
}
