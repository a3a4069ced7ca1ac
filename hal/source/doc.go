// Package source is what all sources have in common. Keep makes a source that
// breaks one that goes on: it is opened again, its frames are counted through, and
// it says how it stands. A Box hands the newest of what comes to whoever is ready.
//
// The sources themselves are the packages beneath, each on its own.
package source
