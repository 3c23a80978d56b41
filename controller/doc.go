// Package controller carries out what package metadata decides.
//
// Every node has one Controller. It owns three goroutines:
//
//   - the watch loop follows the store and makes of whole revisions, in order,
//     the newest image. A gap or a compacted revision makes it list everything
//     again.
//   - the apply loop tells the subscribers what changed and then publishes the
//     image. Where that takes long, it goes on with the image that is newest then.
//   - the decision loop stands for election and, while this node is the
//     elected controller, turns requests and the state of the brokers into
//     transactions, one at a time. Each compares its election, the one before it,
//     and the revision of every key it touches (metadata.Decree), so that a
//     controller that was replaced without knowing can write nothing, and a
//     transaction whose answer was lost happens before the next or never.
//
// A request is made on any node. One that is not the controller sends it to the
// one that is (Options.Call, Answer) and tries again until it has an answer; an
// attempt whose outcome is unknown is told to the next.
//
// Nodes are also asked, whether they are controller or not, which metadata they
// have applied, before a broker that stops may go, and how far their logs go,
// before an unclean election (Options.Call).
//
// Decisions are made on the newest image. A change is acknowledged when the
// subscribers of the node that was asked for it have applied it: what CreateTopics
// answered is usable at once. A subscriber may leave undone what waits for a disk that
// hangs; whoever acknowledges that waits for it by himself.
package controller
