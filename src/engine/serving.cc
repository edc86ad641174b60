#include "engine/serving.h"

#include "model/weights.h"

namespace duo {

Status CheckForWrites(const Model& model) { return model.weights().CheckFiles(Checkpoint::Replaced::kIsFine); }

}  // namespace duo
