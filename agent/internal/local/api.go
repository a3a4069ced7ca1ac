package local

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/covey-edge/covey/hal"
)

// healthz says that the program answers.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) { word(w, http.StatusOK, "ok") }

// readyz says whether the board does its work.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if why := s.cfg.Board.Status().NotReady; why != "" {
		word(w, http.StatusServiceUnavailable, why)
		return
	}
	word(w, http.StatusOK, "ready")
}

func word(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, s.cfg.Board.Status())
}

// events are those after ?after=, a Seq.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	var after uint64
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			return problem(http.StatusBadRequest, codeInvalid, "after is the seq of an event, a number")
		}
	}
	list := s.cfg.Board.Events(after)
	if list == nil {
		list = []Event{}
	}
	return answer(w, struct {
		Events []Event `json:"events"`
	}{list[max(0, len(list)-MaxEvents):]})
}

func (s *Server) eventPicture(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if !validEvent(id) {
		return problem(http.StatusNotFound, codeNotFound, "there is no such event")
	}
	picture, err := s.cfg.Board.EventPicture(id)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "image/jpeg")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(picture))
	return nil
}

// doctorTime is the longest that an examination may take.
const doctorTime = time.Minute

// examine asks the doctor, for one caller at a time: he runs programs.
func (s *Server) examine(w http.ResponseWriter, r *http.Request) error {
	select {
	case s.doctor <- struct{}{}:
		defer func() { <-s.doctor }()
	default:
		return problem(http.StatusTooManyRequests, codeTooMany, "the board is being examined already").fixed("wait some seconds")
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(doctorTime + 10*time.Second))
	ctx, cancel := context.WithTimeout(r.Context(), doctorTime)
	defer cancel()
	list, err := s.cfg.Board.Doctor(ctx)
	if err != nil {
		return err
	}
	return answer(w, struct {
		Checks []hal.Diagnosis `json:"checks"`
	}{list})
}

func (s *Server) regions(w http.ResponseWriter, r *http.Request) error {
	is, err := s.cfg.Board.Regions(r.PathValue("pipeline"))
	if err != nil {
		return err
	}
	is.Zones, is.Masks = listed(is.Zones), listed(is.Masks)
	return answer(w, is)
}

// setRegions replaces all zones and masks of a pipeline.
func (s *Server) setRegions(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Zones *[]Zone `json:"zones"`
		Masks *[]Zone `json:"masks"`
	}
	if err := decode(r, &in); err != nil {
		return err
	}
	if in.Zones == nil || in.Masks == nil {
		return problem(http.StatusUnprocessableEntity, codeInvalid, "zones and masks are both needed: what is not sent would be gone")
	}
	if err := checkRegions(*in.Zones, *in.Masks); err != nil {
		return err
	}
	pipeline := r.PathValue("pipeline")
	is, err := s.cfg.Board.Regions(pipeline)
	if err != nil {
		return err
	}
	if is.Locked != "" {
		return problem(http.StatusConflict, codeConflict, "%s", is.Locked)
	}
	if err := s.cfg.Board.SetRegions(pipeline, *in.Zones, *in.Masks); err != nil {
		return err
	}
	return s.regions(w, r)
}

func (s *Server) settings(w http.ResponseWriter, r *http.Request) error {
	list, err := s.cfg.Board.Settings(r.PathValue("pipeline"))
	if err != nil {
		return err
	}
	if list == nil {
		list = []Setting{}
	}
	return answer(w, struct {
		Settings []Setting `json:"settings"`
	}{list})
}

// set gives one setting of a pipeline a value; null takes it back.
func (s *Server) set(w http.ResponseWriter, r *http.Request) error {
	value, err := decodeValue(r)
	if err != nil {
		return err
	}
	pipeline, name := r.PathValue("pipeline"), r.PathValue("setting")
	list, err := s.cfg.Board.Settings(pipeline)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(list, func(is Setting) bool { return is.Name == name })
	if at < 0 {
		return problem(http.StatusNotFound, codeNotFound, "the pipeline has no such setting")
	}
	if list[at].Locked != "" {
		return problem(http.StatusConflict, codeConflict, "%s", list[at].Locked)
	}
	if err := checkValue(&list[at], value); err != nil {
		return err
	}
	if err := s.cfg.Board.Set(pipeline, name, value); err != nil {
		return err
	}
	return s.settings(w, r)
}

func listed(z []Zone) []Zone {
	if z == nil {
		return []Zone{}
	}
	return z
}
