// Package v1 is the JSON that the controller's REST API, version 1, takes and
// gives. The controller and the command line share it; of the controller it imports
// how a rollout goes, and nothing else.
package v1

import (
	"time"

	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/wire"
)

// Limits of what the API takes, bytes unless it says otherwise.
const (
	MaxBody     = 64 << 10 // of a JSON request, but a manifest
	MaxQuery    = 4 << 10  // of a query over devices
	MaxPage     = 10_000   // devices, rollouts or results of one answer
	DefaultPage = 1000
)

// A Problem is every error of the API, application/problem+json (RFC 9457).
type Problem struct {
	Type   string   `json:"type" example:"about:blank"`
	Title  string   `json:"title" doc:"The HTTP status in words"`
	Status int      `json:"status"`
	Code   string   `json:"code" doc:"For programs; does not change" example:"E_NOT_FOUND"`
	Detail string   `json:"detail" doc:"What happened and why, one line"`
	Fix    string   `json:"fix,omitempty" doc:"What to do about it, one line"`
	Errors []Detail `json:"errors,omitempty" doc:"What is wrong with the request, one by one"`
}

// A Detail is one thing that is wrong with a request.
type Detail struct {
	Where string `json:"where" example:"body.pipeline"`
	What  string `json:"what"`
	Mark  string `json:"mark,omitempty" doc:"Two lines: what was sent, and a caret under the mistake"`
}

// Error is the problem in one line.
func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// Codes of problems. Those of devices and releases (hal/errors.go) come up too.
const (
	CodeUnauthorized = "E_UNAUTHORIZED" // 401: no token, or one that is not known
	CodeForbidden    = "E_FORBIDDEN"    // 403: the token's role does not suffice
	CodeNotFound     = "E_NOT_FOUND"    // 404
	CodeConflict     = "E_CONFLICT"     // 409: exists already, or changed meanwhile
	CodeBusy         = "E_BUSY"         // 409: somebody else does this right now
	CodeRefused      = "E_REFUSED"      // 409: every device of the group refuses
	CodeMissing      = "E_MISSING"      // 409: files of the release are not here
	CodeInvalid      = "E_INVALID"      // 400, 422
	CodeTooLarge     = "E_TOO_LARGE"    // 413
	CodeTooMany      = "E_TOO_MANY"     // 429
	CodeInternal     = "E_INTERNAL"     // 500
)

// A Controller says who answers, and as whom it knows the caller.
type Controller struct {
	Version string `json:"version"`
	URL     string `json:"url" doc:"Of this API, as devices and people reach it"`
	MQTT    string `json:"mqtt"`
	CA      string `json:"ca" doc:"SHA-256 of the CA certificate, hex"`
	You     You    `json:"you"`
}

// You is the holder of the bearer token.
type You struct {
	Name string `json:"name"`
	Role string `json:"role" enum:"admin,operator,viewer"`
}

// A Device is one board, in brief.
type Device struct {
	ID        wire.DeviceID     `json:"id"`
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels"`
	State     string            `json:"state" doc:"online, stopped, offline; new: never seen; revoked"`
	Seen      time.Time         `json:"seen,omitzero"`
	Joined    time.Time         `json:"joined,omitzero"`
	Board     string            `json:"board,omitempty"`
	Agent     string            `json:"agent,omitempty"`
	Flags     []string          `json:"flags,omitempty" doc:"duplicate_identity: two machines use this id"`
	Pipelines []Pipeline        `json:"pipelines"`
}

// A Pipeline of a device.
type Pipeline struct {
	Name    string         `json:"name"`
	Release *Release       `json:"release,omitempty" doc:"What runs"`
	Wanted  *Release       `json:"wanted,omitempty" doc:"What the fleet asks for"`
	State   wire.ExecState `json:"state,omitempty" doc:"Of the last execution"`
	Fault   *wire.Fault    `json:"fault,omitempty"`
	Pinned  bool           `json:"pinned,omitempty"`
	Accel   string         `json:"accelerator,omitempty"`
	FPS     float64        `json:"fps"`
	Results bool           `json:"results" doc:"Whether the fleet asks for its results"`
}

// A Release in brief.
type Release struct {
	Digest  wire.Digest `json:"digest"`
	Name    string      `json:"name"`
	Version string      `json:"version"`
}

// String is name@version.
func (r Release) String() string { return r.Name + "@" + r.Version }

// A DeviceDetail is all that is known of a board.
type DeviceDetail struct {
	Device
	Hello    *wire.Hello         `json:"hello,omitempty"`
	Health   *wire.Health        `json:"health,omitempty"`
	Reported *wire.Reported      `json:"reported,omitempty"`
	Desired  *wire.DesiredSigned `json:"desired,omitempty"`
}

// Devices is one page.
type Devices struct {
	Devices []Device `json:"devices"`
	Next    string   `json:"next,omitempty" doc:"Ask again with after= this; empty on the last page"`
}

// A Group is a name for devices. In queries it is @name.
type Group struct {
	Name       string          `json:"name"`
	Membership string          `json:"membership" enum:"static,snapshot,dynamic" doc:"static: a list; snapshot: a query that a rollout asks when it starts; dynamic: and goes on asking"`
	Query      string          `json:"query,omitempty"`
	Devices    []wire.DeviceID `json:"devices,omitempty" doc:"Of a static group; they need not have joined yet"`
	By         string          `json:"by" doc:"Who set it"`
	Changed    time.Time       `json:"changed"`
}

// A GroupDetail is a group and how many devices are in it now.
type GroupDetail struct {
	Group
	Size int `json:"size"`
}

// Groups are all named groups, by name.
type Groups struct {
	Groups []Group `json:"groups"`
}

// A GroupRequest makes a group of a query or of a list.
type GroupRequest struct {
	Membership string          `json:"membership,omitempty" enum:"static,snapshot,dynamic" doc:"Absent: static for a list, snapshot for a query"`
	Query      string          `json:"query,omitempty" maxLength:"4096"`
	Devices    []wire.DeviceID `json:"devices,omitempty" maxItems:"10000"`
}

// A DevicePatch changes what people say about a device. What is absent stays; a
// label of null goes.
type DevicePatch struct {
	Name   *string            `json:"name,omitempty" maxLength:"128"`
	Labels map[string]*string `json:"labels,omitempty" doc:"A value of null removes the label"`
}

// Ask turns the results of pipelines on or off.
type Ask struct {
	On bool `json:"on"`
}

// A TokenRequest asks for a join token.
type TokenRequest struct {
	Uses       int               `json:"uses,omitempty" minimum:"0" doc:"How many devices may join; 0 is 1"`
	TTLSeconds int64             `json:"ttl_seconds,omitempty" minimum:"0" doc:"0 is 600"`
	Labels     map[string]string `json:"labels,omitempty" doc:"Given to every device that joins by it"`
}

// A Token lets devices join. Token is what a person copies to a board; it is
// shown when it is made and never again.
type Token struct {
	ID      string            `json:"id"`
	Token   string            `json:"token,omitempty"`
	Created time.Time         `json:"created"`
	Expires time.Time         `json:"expires"`
	Uses    int               `json:"uses"`
	Used    int               `json:"used"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// Tokens are the join tokens that can still be used.
type Tokens struct {
	Tokens []Token `json:"tokens"`
}

// BlobState says how much of a file is here. From counts blocks of 64 KiB: send
// the file from there.
type BlobState struct {
	Here bool `json:"here"`
	From int  `json:"from"`
}

// A ReleaseInfo is a release that the controller holds.
type ReleaseInfo struct {
	Release
	Task   string    `json:"task,omitempty"`
	Size   int64     `json:"size" doc:"Bytes of all files"`
	Pushed time.Time `json:"pushed"`
	By     string    `json:"by"`
}

// Trust is what people have signed, as the controller has it.
type Trust struct {
	Root    string   `json:"root" doc:"SHA-256 of the first root: what devices are told when they join"`
	Expires []Expiry `json:"expires" doc:"When its files count no more, the first first"`
}

// A Director is the key with which a controller signs what is wanted of each device.
type Director struct {
	ID     string `json:"id" doc:"As metadata calls it"`
	Public string `json:"public" doc:"Its public half, hex"`
	Obeyed string `json:"obeyed" enum:"this,nobody,other" doc:"Whose orders boards obey: this controller's, anybody's, another's"`
}

// An Expiry is the day after which a file of Trust counts no more.
type Expiry struct {
	File string    `json:"file"`
	At   time.Time `json:"at"`
}

// Releases are the releases the controller holds, newest first.
type Releases struct {
	Releases []ReleaseInfo `json:"releases"`
}

// A ReleaseDetail is a release with its files.
type ReleaseDetail struct {
	ReleaseInfo
	Labels   string    `json:"labels,omitempty" doc:"Name of the label file"`
	License  string    `json:"license,omitempty"`
	Notes    string    `json:"notes,omitempty"`
	Author   string    `json:"author,omitempty"`
	Parent   string    `json:"parent,omitempty" doc:"The release it was made from, as its maker says"`
	Dataset  string    `json:"dataset,omitempty"`
	Commit   string    `json:"commit,omitempty" doc:"Of the training's code"`
	Kind     string    `json:"kind,omitempty" doc:"Of results, as its maker says"`
	Classes  int       `json:"classes,omitempty" doc:"How many labels may come, as its maker says"`
	Config   string    `json:"config,omitempty" doc:"Name of the file of configuration; such a release has no variants"`
	Variants []Variant `json:"variants"`
	Golden   int       `json:"golden" doc:"How many golden samples"`
}

// A Variant is one model file of a release.
type Variant struct {
	File        string      `json:"file"`
	SHA256      wire.Digest `json:"sha256"`
	Length      int64       `json:"length"`
	Engine      string      `json:"engine"`
	Accelerator string      `json:"accelerator,omitempty"`
	Arch        string      `json:"arch,omitempty"`
	// What it needs, and what it may take.
	Quantisation string  `json:"quantisation,omitempty"`
	MinRAM       int64   `json:"min_ram,omitempty" doc:"Bytes of the board"`
	MinRuntime   string  `json:"min_runtime,omitempty" doc:"Version of the engine's library"`
	LatencyMS    float64 `json:"latency_ms,omitempty" doc:"Budget of the engine's time for a frame, p50"`
	Memory       int64   `json:"memory,omitempty" doc:"Budget of its runner's memory, bytes"`
}

// A Set asks for a release on a pipeline of a group of devices.
type Set struct {
	Query    string `json:"query" minLength:"1" maxLength:"4096" doc:"Which devices, as in site == lyon and ram >= 1GiB"`
	Pipeline string `json:"pipeline" pattern:"^[a-z0-9-]{1,32}$"`
	Release  string `json:"release" minLength:"1" maxLength:"128" doc:"name@version, name (the newest), or the beginning of a digest (8 digits or more)"`
	Devices  int    `json:"devices,omitempty" minimum:"0" doc:"How many devices the group is believed to have: another number is a conflict. 0: any"`
	// Policy is how it goes; absent: to all devices at once.
	Policy *policy.Policy `json:"policy,omitempty" doc:"How it goes; absent: to all devices at once"`
	Draft  bool           `json:"draft,omitempty" doc:"It begins when it is resumed"`
	Apply  string         `json:"apply,omitempty" pattern:"^[a-z0-9-]{1,32}$" doc:"Name of the file that asks for it"`
}

// A Plan is what a rollout would do.
type Plan struct {
	Release  Release  `json:"release"`
	Pipeline string   `json:"pipeline"`
	Query    string   `json:"query"`
	Targets  []Target `json:"targets"`
	Warnings []string `json:"warnings,omitempty" doc:"What will keep boards from it, or soon does, for people"`
	// Seconds is about how long it takes when every device is there.
	Seconds int64 `json:"seconds" doc:"About how long it takes, when every device is there and nothing goes wrong"`
}

// A Target is one device of a plan.
type Target struct {
	Device  wire.DeviceID `json:"device"`
	State   string        `json:"state"`
	Now     *Release      `json:"now,omitempty"`
	Phase   string        `json:"phase,omitempty" doc:"Absent: in none"`
	Variant string        `json:"variant,omitempty"`
	Bytes   int64         `json:"bytes,omitempty" doc:"It would need at the most; less where it has some of it"`
	Attempt int           `json:"attempt"`
	Refusal *wire.Fault   `json:"refusal,omitempty"`
}

// A Rollout is a release going to a group of devices.
type Rollout struct {
	ID       string                 `json:"id"`
	Release  Release                `json:"release"`
	Pipeline string                 `json:"pipeline"`
	Query    string                 `json:"query"`
	By       string                 `json:"by"`
	State    wire.RolloutState      `json:"state"`
	Created  time.Time              `json:"created"`
	Ended    time.Time              `json:"ended,omitzero"`
	Devices  int                    `json:"devices"`
	Counts   map[wire.ExecState]int `json:"counts" doc:"Executions by state"`
	Back     int                    `json:"back,omitempty" doc:"Devices that run again what they ran before"`
	Mode     string                 `json:"mode" doc:"stage, activate"`
	Cause    string                 `json:"cause,omitempty" doc:"Why it is paused: operator, error_threshold, gate, drift"`
	Reason   string                 `json:"reason,omitempty" doc:"What it waits for, or what went wrong, for people"`
	Apply    string                 `json:"apply,omitempty" doc:"Name of the file that asked for it"`
	Tail     bool                   `json:"tail,omitempty" doc:"It is over, and devices that were away, or come into its group, get it still"`
	Phases   []Phase                `json:"phases"`
}

// A Phase is a part of a rollout.
type Phase struct {
	Name     string                 `json:"name"`
	State    string                 `json:"state" enum:"PENDING,RUNNING,SOAKING,GATING,PASSED,FAILED"`
	Since    time.Time              `json:"since,omitzero"`
	Soak     policy.Duration        `json:"soak,omitempty"`
	Reason   string                 `json:"reason,omitempty"`
	Approval string                 `json:"approval,omitempty" doc:"The role that has to approve before it begins"`
	Approved *Act                   `json:"approved,omitempty"`
	Devices  int                    `json:"devices" doc:"0 in a list of rollouts"`
	Counts   map[wire.ExecState]int `json:"counts,omitempty"`
	Back     int                    `json:"back,omitempty" doc:"Devices that run again what they ran before"`
	Gates    []Gate                 `json:"gates,omitempty" doc:"As they were looked at last"`
}

// A Gate is a condition of a phase, of one variant.
type Gate struct {
	Gate     string      `json:"gate"`
	Variant  wire.Digest `json:"variant,omitempty"`
	Within   int         `json:"within" doc:"Devices that keep to it"`
	Measured int         `json:"measured" doc:"Of so many that were measured"`
	Of       int         `json:"of" doc:"Of so many that count"`
	Bound    float64     `json:"bound" doc:"Percent that keep to it, at the least"`
	Need     float64     `json:"need" doc:"Percent that must"`
	Verdict  string      `json:"verdict" enum:"passed,waits,failed"`
}

// An Act is what somebody did, or what a rollout did by its policy.
type Act struct {
	At   time.Time `json:"at"`
	By   string    `json:"by,omitempty" doc:"Absent: the policy"`
	What string    `json:"what,omitempty"`
}

// Rollouts are rollouts, newest first.
type Rollouts struct {
	Rollouts []Rollout `json:"rollouts"`
}

// A RolloutDetail is a rollout with its executions.
type RolloutDetail struct {
	Rollout
	Policy     policy.Policy `json:"policy"`
	Executions []Execution   `json:"executions"`
	Earlier    []Execution   `json:"earlier" doc:"Those in whose place others came: a retry, a revert"`
	History    []Act         `json:"history"`
}

// An Execution is a rollout on one device, one attempt.
type Execution struct {
	ID      string         `json:"id"`
	Device  wire.DeviceID  `json:"device"`
	Attempt int            `json:"attempt"`
	State   wire.ExecState `json:"state"`
	Done    int64          `json:"done,omitempty" doc:"Bytes at the device"`
	Total   int64          `json:"total,omitempty" doc:"Bytes in all"`
	GapMS   int64          `json:"gap_ms,omitempty" doc:"For how long nothing ran, ms: the board has no room for two models"`
	Fault   *wire.Fault    `json:"fault,omitempty"`
	Updated time.Time      `json:"updated"`
	Phase   string         `json:"phase,omitempty" doc:"Absent: in none, since it cannot take the release"`
	Variant wire.Digest    `json:"variant,omitempty" doc:"The model file that it runs or would run"`
	Back    *Release       `json:"back,omitempty" doc:"It takes the device back to this"`
	Kept    string         `json:"kept,omitempty" doc:"Why the device did not go back"`
	// Evidence is what was measured.
	Evidence *wire.Evidence `json:"evidence,omitempty"`
}

// A Result is what a device published, kept because the fleet asked for it.
type Result struct {
	N       uint64       `json:"n" doc:"Order of arrival here; ask on with after="`
	Arrived time.Time    `json:"arrived,omitzero"`
	Result  *wire.Result `json:"result,omitempty"`
	Lost    *wire.Lost   `json:"lost,omitempty" doc:"Instead of a result: these will never come"`
}

// Results is one page, in order of arrival.
type Results struct {
	Results []Result `json:"results"`
}

// A Home is a house's MQTT user. Password is shown when it is made and never again.
type Home struct {
	User     string    `json:"user"`
	Password string    `json:"password,omitempty"`
	Created  time.Time `json:"created,omitzero"`
	MQTT     string    `json:"mqtt,omitempty" doc:"Where to connect"`
}

// Homes are the houses' MQTT users.
type Homes struct {
	Homes []Home `json:"homes"`
}

// A PersonRequest asks for a bearer token.
type PersonRequest struct {
	Name string `json:"name" pattern:"^[a-z0-9-]{1,32}$"`
	Role string `json:"role" enum:"admin,operator,viewer"`
}

// A Person holds a bearer token, as a program may. Token is shown when it is made
// and never again.
type Person struct {
	Name    string    `json:"name"`
	Role    string    `json:"role" enum:"admin,operator,viewer"`
	Token   string    `json:"token,omitempty"`
	Created time.Time `json:"created"`
}

// People are all who hold a bearer token.
type People struct {
	People []Person `json:"people"`
}

// A DeviceChange is an event of a watch on devices: something about it is new.
type DeviceChange struct {
	Device Device `json:"device"`
}

// A RolloutChange is an event of a watch on a rollout.
type RolloutChange struct {
	Rollout    Rollout     `json:"rollout"`
	Executions []Execution `json:"executions" doc:"Those that changed since the event before"`
}

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is how a problem's JSON is called.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// A Ping is an event that says nothing but that the stream lives.
type Ping struct {
	Time time.Time `json:"time"`
}
