package wire

import "time"

// Types of events.
const (
	EventStart  = "start"
	EventUpdate = "update"
	EventEnd    = "end"
)

// Event is <pipeline>/event.
type Event struct {
	V     int         `json:"v"`
	ID    string      `json:"id"`
	Seq   uint64      `json:"seq"`
	TS    time.Time   `json:"ts"`
	Pipe  string      `json:"pipe"`
	Type  string      `json:"type"`
	Label string      `json:"label"`
	Zone  string      `json:"zone"`
	Track uint64      `json:"track,omitempty"`
	Score float32     `json:"score"`
	Start time.Time   `json:"start"`
	End   time.Time   `json:"end,omitzero"`
	Count int         `json:"count"`
	Box   *[4]float32 `json:"box,omitempty"`
	Image string      `json:"image,omitempty"`
	Late  bool        `json:"late"`
	AgeMS int64       `json:"age_ms"`
}
