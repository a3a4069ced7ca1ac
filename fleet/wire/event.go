package wire

import (
	"strconv"
	"time"
)

// Event is a word about something that was seen: up/event and <pipeline>/event on
// the home tree. One thing gets a start, updates while it lasts, and an end.
type Event struct {
	V int `json:"v"`
	// ID is this word's: unique, the same on every link and every resend.
	ID    string      `json:"id"`
	Event string      `json:"event"` // the same for all words about one thing
	Seq   uint64      `json:"seq"`   // per class and link, without a gap
	TS    time.Time   `json:"ts"`    // of the frame that gave rise to it
	Pipe  string      `json:"pipe"`
	Type  string      `json:"type"` // start, update, end
	Label string      `json:"label"`
	Zone  string      `json:"zone"`            // an id; "" is the whole picture
	Track uint64      `json:"track,omitempty"` // the same for one thing from start to end; 0: not followed
	Score float32     `json:"score"`           // the best so far
	Start time.Time   `json:"start"`           // when the thing was first seen
	End   time.Time   `json:"end,omitzero"`    // with the type end: when it was last seen
	Count int         `json:"count"`           // things of this label in this zone now
	Box   *[4]float32 `json:"box,omitempty"`   // x0,y0,x1,y1 in 0..1 of the frame
	Image string      `json:"image,omitempty"` // the id that its picture is asked for by: Event
	// Late is true for what did not go out at once: it was held back while the link was
	// down, or waited. AgeMS is how old it was when it was sent. Nobody sounds a siren for
	// what is late.
	Late  bool  `json:"late"`
	AgeMS int64 `json:"age_ms"`
}

// Types of an Event.
const (
	EventStart  = "start"
	EventUpdate = "update"
	EventEnd    = "end"
)

// Validate says what is wrong with the message, nil when nothing is.
func (e *Event) Validate() error {
	var c checker
	c.version(e.V)
	c.someText("id", e.ID, maxText)
	c.someText("event", e.Event, maxText)
	c.id("pipe", e.Pipe)
	c.that(e.Type == EventStart || e.Type == EventUpdate || e.Type == EventEnd, "type: %q is not one of start, update, end", clip(e.Type))
	c.someText("label", e.Label, maxText)
	c.optID("zone", e.Zone)
	c.within("score", float64(e.Score), -1e9, 1e9)
	c.that(!e.TS.IsZero(), "ts: missing")
	c.that(!e.Start.IsZero(), "start: missing")
	c.that(e.End.IsZero() != (e.Type == EventEnd), "end: goes with the type end, and only with it")
	c.whole("count", e.Count, 0, 1e6)
	if e.Box != nil {
		for _, v := range e.Box {
			c.within("box", float64(v), 0, 1)
		}
	}
	c.text("image", e.Image, maxText)
	c.that(e.AgeMS >= 0, "age_ms: %d", e.AgeMS)
	return c.err
}

// AppendEventBody appends e as one JSON object without what is known only when it is
// sent (seq, late, age_ms), which AppendEventHead says. It allocates nothing when dst
// has room.
func AppendEventBody(dst []byte, e *Event) []byte {
	dst = strconv.AppendInt(append(dst, `{"v":`...), int64(e.V), 10)
	dst = appendString(append(dst, `,"id":`...), e.ID)
	dst = appendString(append(dst, `,"event":`...), e.Event)
	dst = appendTime(append(dst, `,"ts":`...), e.TS)
	dst = appendString(append(dst, `,"pipe":`...), e.Pipe)
	dst = appendString(append(dst, `,"type":`...), e.Type)
	dst = appendString(append(dst, `,"label":`...), e.Label)
	dst = appendString(append(dst, `,"zone":`...), e.Zone)
	if e.Track != 0 {
		dst = strconv.AppendUint(append(dst, `,"track":`...), e.Track, 10)
	}
	dst = appendFloat(append(dst, `,"score":`...), float64(e.Score), 32)
	dst = appendTime(append(dst, `,"start":`...), e.Start)
	if !e.End.IsZero() {
		dst = appendTime(append(dst, `,"end":`...), e.End)
	}
	dst = strconv.AppendInt(append(dst, `,"count":`...), int64(e.Count), 10)
	if e.Box != nil {
		dst = appendBox(dst, e.Box)
	}
	if e.Image != "" {
		dst = appendString(append(dst, `,"image":`...), e.Image)
	}
	return append(dst, '}')
}

// AppendEventHead appends the beginning of the object that an event is sent as: what
// follows is the body without its brace.
func AppendEventHead(dst []byte, seq uint64, late bool, age time.Duration) []byte {
	dst = strconv.AppendUint(append(dst, `{"seq":`...), seq, 10)
	dst = strconv.AppendBool(append(dst, `,"late":`...), late)
	dst = strconv.AppendInt(append(dst, `,"age_ms":`...), max(age.Milliseconds(), 0), 10)
	return append(dst, ',')
}

// AppendResultHead is AppendEventHead for a result, which says late only when it is.
func AppendResultHead(dst []byte, seq uint64, late bool) []byte {
	dst = strconv.AppendUint(append(dst, `{"seq":`...), seq, 10)
	if late {
		dst = append(dst, `,"late":true`...)
	}
	return append(dst, ',')
}

func appendTime(dst []byte, t time.Time) []byte {
	dst = t.UTC().AppendFormat(append(dst, '"'), "2006-01-02T15:04:05.999999999Z07:00")
	return append(dst, '"')
}

func appendBox(dst []byte, box *[4]float32) []byte {
	dst = append(dst, `,"box":[`...)
	for i, v := range box {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendFloat(dst, float64(v), 32)
	}
	return append(dst, ']')
}
