// Package wire is what a board and a controller say to each other: topics,
// messages, states, and the Link they travel on. Both ends import it, never each
// other. It imports the standard library alone.
//
// Every message type has a JSON Schema and golden examples in testdata. Additive
// changes keep v; unknown keys are ignored by receivers of messages; a breaking
// change is a new Version, which is the second level of every fleet topic.
package wire

// Version is the major schema version, the second level of the fleet tree.
const Version = 1

// Limits on what is accepted from the other side, in bytes.
const (
	MaxPacket   = 256 << 10 // any MQTT packet
	MaxDesired  = 64 << 10
	MaxReported = 96 << 10 // a board of a few pipelines needs 2 KiB
	MaxHello    = 16 << 10
	MaxHealth   = 16 << 10 // the same: 400 bytes
	MaxResult   = 64 << 10
	MaxExec     = 8 << 10
	BlockSize   = 64 << 10 // of a blob; the last block is shorter
)
