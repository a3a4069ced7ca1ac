package wire

// HomeModel is <pipeline>/model on the home tree: the document of an update entity of
// Home Assistant. Every key is always there: a key that is missing would leave there
// what was said before. Installed and Latest are the same where there is nothing to
// install.
type HomeModel struct {
	Installed  string `json:"installed_version"` // "none" where nothing is
	Latest     string `json:"latest_version"`
	Title      string `json:"title"` // the release's name
	InProgress bool   `json:"in_progress"`
	Percent    *int   `json:"update_percentage"` // of the download; nil: not downloading
	Summary    string `json:"release_summary"`   // one line
}

// MaxHomeModel is the longest HomeModel, bytes.
const MaxHomeModel = 4 << 10

// Validate says what is wrong with the message, nil when nothing is.
func (m *HomeModel) Validate() error {
	var c checker
	c.someText("installed_version", m.Installed, maxText)
	c.someText("latest_version", m.Latest, maxText)
	c.text("title", m.Title, maxText)
	if m.Percent != nil {
		c.whole("update_percentage", *m.Percent, 0, 100)
	}
	c.text("release_summary", m.Summary, maxFault)
	return c.err
}
